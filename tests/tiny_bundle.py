"""A whole bundle of tiny random models, for tests that need a real stack but no skill."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from engines.bundles import write_manifest
from engines.mllm.answer import AnswerFormat
from engines.vision.config import HeatmapConfig
from engines.vision.model import VisionModel
from tests.stand_ins import TINY_VISION
from tests.tiny_model import IMAGE, build_tiny_model


def build_tiny_bundle(path: Path, mllm: Path | None = None) -> Path:
    """A bundle at `path`, around the language model in the directory `mllm` if there is one. Returns `path`."""
    path.mkdir(parents=True, exist_ok=True)
    if mllm is None:
        build_tiny_model(path / "mllm")
    else:
        (path / "mllm").symlink_to(mllm)
    stored = json.loads((path / "mllm" / "config.json").read_text(encoding="utf-8"))
    width = stored.get("text_config", stored)["hidden_size"]
    torch.manual_seed(0)
    heatmap = HeatmapConfig(vector_dim=width, num_heads=2)
    VisionModel.from_config(TINY_VISION.model_copy(update={"heatmap": heatmap})).save(path / "vision")
    write_manifest(path, name="tiny", answer=AnswerFormat(), mllm_image=IMAGE)
    return path
