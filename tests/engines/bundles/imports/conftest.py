"""Published files of tiny models, made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engines.vision.model import VisionModel
from tests.engines.bundles.imports.published import build_vision, coprs_state, write_sam, write_shards
from tests.tiny_model import build_tiny_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5-VL as Hugging Face publishes it, without a concentration token."""
    folder = tmp_path_factory.mktemp("base")
    build_tiny_model(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace("<REF_POS>", "<SPARE>"), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def vision(base: Path) -> VisionModel:
    """The SAM of a CoPRS around `base`."""
    width = json.loads((base / "config.json").read_text())["text_config"]["hidden_size"]
    return build_vision(width)


@pytest.fixture(scope="session")
def sam_file(vision: VisionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sam(vision, tmp_path_factory.mktemp("sam") / "sam_vit_h.pth")


@pytest.fixture(scope="session")
def trained(base: Path, vision: VisionModel) -> dict[str, torch.Tensor]:
    """The whole state of a CoPRS."""
    return coprs_state(base, vision)


@pytest.fixture(scope="session")
def shards(trained: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as three ranks have saved it."""
    return write_shards(trained, tmp_path_factory.mktemp("coprs") / "global_step_9", 3)
