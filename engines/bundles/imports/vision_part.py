"""Writes a bundle's ``vision`` folder from a published SAM and, for CoPRS, a trained heatmap head and decoder."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError

from engines.bundles.imports.sam import Sam
from engines.bundles.imports.tensor_file import TensorFile
from engines.bundles.manifest import describe
from engines.errors import CheckpointError
from engines.vision.config import CONFIG_FILE, WEIGHTS_FILE, AdapterConfig, HeatmapConfig, VisionConfig


def write_vision_config(
    folder: Path, sam: Sam, heatmap: HeatmapConfig | None = None, adapter: AdapterConfig | None = None
) -> VisionConfig:
    """Write the sizes of a SAM, with those of a heatmap head or an adapter if there is one.

    Raises:
        CheckpointError: they do not fit each other.
    """
    try:
        config = VisionConfig(encoder=sam.encoder, decoder=sam.decoder, heatmap=heatmap, adapter=adapter)
    except ValidationError as error:
        raise CheckpointError(
            f"the SAM and the trained vision parts do not fit: {describe(error)}"
        ) from error
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return config


def write_vision(folder: Path, sam: Sam, adapter: AdapterConfig | None = None) -> None:
    """Write a whole SAM as it was published, in float32, with an adapter's tensors if they are among its own."""
    write_vision_config(folder, sam, adapter=adapter)
    shapes = {name: tuple(value.shape) for name, value in sam.tensors.items()}
    with TensorFile(folder / WEIGHTS_FILE, shapes, torch.float32) as out:
        for name, value in sam.tensors.items():
            out.write(name, value)
