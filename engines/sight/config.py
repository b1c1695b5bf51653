"""The shape of a Qwen2.5-VL's image tower, and how its pixels are scaled, as a checkpoint's own files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from engines.errors import BundleError

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
Channels = tuple[float, float, float]


class TowerConfig(BaseModel):
    """``vision_config`` of a Qwen2.5-VL (https://arxiv.org/abs/2502.13923, section 2.1), by transformers' names."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    depth: PositiveInt
    hidden_size: PositiveInt
    out_hidden_size: PositiveInt
    num_heads: PositiveInt
    patch_size: PositiveInt
    spatial_merge_size: PositiveInt
    temporal_patch_size: PositiveInt
    in_channels: Literal[3] = 3
    hidden_act: str = "silu"
    fullatt_block_indexes: frozenset[int]
    rope_theta: PositiveFloat = 10_000.0

    @property
    def head_dim(self) -> int:
        """Numbers in one head's query."""
        return self.hidden_size // self.num_heads

    @property
    def sees_whole(self) -> bool:
        """Whether each block attends to the whole image, none to windows of it."""
        return self.fullatt_block_indexes >= set(range(self.depth))


class PixelScale(BaseModel):
    """What the checkpoint's own processor does with a pixel of 0..255: ``(pixel × rescale_factor − mean) ÷ std``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    image_mean: Channels
    image_std: Annotated[Channels, Field(description="none of them 0")]
    rescale_factor: PositiveFloat = 1 / 255
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True


def read_tower(model: Path) -> tuple[TowerConfig, PixelScale] | None:
    """The tower in a checkpoint's folder; None where it is not one that can be run here.

    That is a Qwen2.5-VL whose blocks all attend to the whole image, as the demo model's do; the published ones' look
    through windows.

    Raises:
        BundleError: a file cannot be read.
    """
    described = _read(model / CONFIG)
    if described.get("model_type") != "qwen2_5_vl":
        return None
    vision = described.get("vision_config", {})
    theta = vision.get("rope_parameters", {}).get(
        "rope_theta", TowerConfig.model_fields["rope_theta"].default
    )
    try:
        tower = TowerConfig.model_validate({**vision, "rope_theta": theta})
        scale = PixelScale.model_validate(_read(model / PROCESSOR))
    except ValidationError:
        return None
    return (tower, scale) if tower.sees_whole and tower.hidden_act == "silu" else None


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: {error}") from error
    return content
