"""EGM from its published layout: weights as they were, a template that goes on from the assistant's text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engines.bundles import Bundle
from engines.bundles.imports.egm import ANSWER, import_egm
from engines.errors import CheckpointError
from engines.vision.model import VisionModel
from tests.tiny_qwen3 import build_tiny_qwen3


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("EGM-4B")
    build_tiny_qwen3(folder)
    (folder / "README.md").write_text("A model card.")
    return folder


def test_a_bundle_of_boxes_is_made(
    published: Path, sam_file: Path, vision: VisionModel, tmp_path: Path
) -> None:
    bundle = import_egm(
        str(published), str(sam_file), tmp_path / "egm", max_pixels=256 * 256, progress=lambda _: None
    )
    assert (bundle.grounder, bundle.roles, bundle.answer) == ("egm", ("reason",), ANSWER)
    assert bundle.mllm_image.factor == 32
    name = "model.safetensors"
    assert (bundle.mllm_path / name).read_bytes() == (published / name).read_bytes()
    assert not (bundle.mllm_path / "README.md").exists()
    seer = VisionModel.load(bundle.vision_path)
    assert seer.heatmap_head is None
    assert seer.mask_decoder.iou_token.weight.equal(vision.mask_decoder.iou_token.weight)
    Bundle.load(bundle.path)


def test_a_shard_of_the_index_must_be_there(published: Path, sam_file: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "published"))
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model-00002\.safetensors: the file is missing"):
        import_egm(str(folder), str(sam_file), tmp_path / "egm", progress=lambda _: None)


def test_another_kind_of_model_is_named(published: Path, sam_file: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "published"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="a llama, and not a Qwen-VL"):
        import_egm(str(folder), str(sam_file), tmp_path / "egm", progress=lambda _: None)
