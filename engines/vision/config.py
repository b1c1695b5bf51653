"""Sizes of the vision networks, as stored in a bundle's ``vision/config.json``."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from engines.errors import BundleError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
Fit = Literal["corner", "stretch", "centre"]


class _Sizes(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderConfig(_Sizes):
    """SAM's image encoder (a ViT with windowed and global attention); the defaults are SAM ViT-H.

    `image_size` S and `patch_size` in pixels, `window_size` in patches; `pixel_mean` and `pixel_std` per RGB
    channel on the 0..255 scale.
    """

    kind: Literal["sam_vit"] = "sam_vit"
    image_size: PositiveInt = 1024
    patch_size: PositiveInt = 16
    hidden_size: PositiveInt = 1280
    num_hidden_layers: PositiveInt = 32
    num_attention_heads: PositiveInt = 16
    mlp_dim: PositiveInt = 5120
    window_size: PositiveInt = 14
    global_attn_indexes: tuple[int, ...] = (7, 15, 23, 31)
    output_channels: PositiveInt = 256
    pixel_mean: Triple = (123.675, 116.28, 103.53)
    pixel_std: Triple = (58.395, 57.12, 57.375)
    layer_norm_eps: PositiveFloat = 1e-6

    @model_validator(mode="after")
    def _divides(self) -> Self:
        _require(self.image_size % self.patch_size == 0, "image_size must be a multiple of patch_size")
        _require(self.patch_size % 4 == 0, "patch_size must be a multiple of 4")
        heads = self.num_attention_heads
        _require(self.hidden_size % heads == 0, "hidden_size must be a multiple of num_attention_heads")
        _require(self.hidden_size % 4 == 0, "hidden_size must be a multiple of 4")
        layers = range(self.num_hidden_layers)
        _require(all(i in layers for i in self.global_attn_indexes), "global_attn_indexes must name layers")
        _require(min(self.pixel_std) > 0, "pixel_std must be positive")
        return self


class TinyVitConfig(_Sizes):
    """TinyViT (convolutions, then attention in windows) in the encoder's place; the defaults are MobileSAM.

    `widths`, `depths`, `num_heads` and `window_sizes` are of each stage, the first of which has no attention;
    `strides` of what leads from one stage to the next. The stem halves the resolution twice.
    """

    kind: Literal["tiny_vit"] = "tiny_vit"
    image_size: PositiveInt = 1024
    widths: tuple[PositiveInt, ...] = (64, 128, 160, 320)
    depths: tuple[PositiveInt, ...] = (2, 2, 6, 2)
    num_heads: tuple[PositiveInt, ...] = (2, 4, 5, 10)
    window_sizes: tuple[PositiveInt, ...] = (7, 7, 14, 7)
    strides: tuple[PositiveInt, ...] = (2, 2, 1)
    expansion: PositiveInt = 4
    mlp_ratio: PositiveInt = 4
    output_channels: PositiveInt = 256
    pixel_mean: Triple = (123.675, 116.28, 103.53)
    pixel_std: Triple = (58.395, 57.12, 57.375)

    @property
    def patch_size(self) -> int:
        """Pixels for each cell of the embedding."""
        return 4 * math.prod(self.strides)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        stages = {len(self.widths), len(self.depths), len(self.num_heads), len(self.window_sizes)}
        _require(stages == {len(self.strides) + 1}, "every list must have one entry for each stage")
        _require(self.image_size % self.patch_size == 0, "image_size must be a multiple of the strides")
        fitting = all(w % h == 0 for w, h in zip(self.widths, self.num_heads, strict=True))
        _require(fitting, "widths must be multiples of num_heads")
        _require(min(self.pixel_std) > 0, "pixel_std must be positive")
        return self


class HieraConfig(_Sizes):
    """SAM 2's Hiera and feature pyramid in the encoder's place; the defaults are Hiera-L.

    `widths`, `depths`, `num_heads` and `window_sizes` are of each stage; every stage after the first halves the
    resolution. `global_attn_indexes` count the blocks of all stages; `background_size` is the side of the table of
    positions that is stretched over the image. `fit` is how an image comes to fill the square: ``stretch``, as SAM 2
    does, or ``centre``, its aspect kept and black on both sides, as ConverSeg-Net does.
    """

    kind: Literal["hiera"] = "hiera"
    image_size: PositiveInt = 1024
    widths: tuple[PositiveInt, ...] = (144, 288, 576, 1152)
    depths: tuple[PositiveInt, ...] = (2, 6, 36, 4)
    num_heads: tuple[PositiveInt, ...] = (2, 4, 8, 16)
    window_sizes: tuple[PositiveInt, ...] = (8, 4, 16, 8)
    global_attn_indexes: tuple[int, ...] = (23, 33, 43)
    background_size: PositiveInt = 7
    output_channels: PositiveInt = 256
    fit: Literal["stretch", "centre"] = "stretch"
    pixel_mean: Triple = (123.675, 116.28, 103.53)
    pixel_std: Triple = (58.395, 57.12, 57.375)

    @property
    def patch_size(self) -> int:
        """Pixels for each cell of the embedding, which comes from the third of the four stages."""
        return 16

    @model_validator(mode="after")
    def _divides(self) -> Self:
        stages = {len(self.widths), len(self.depths), len(self.num_heads), len(self.window_sizes)}
        _require(stages == {4}, "every list must have one entry for each of the four stages")
        side = 4 * self.window_sizes[0]
        _require(self.image_size % side == 0, f"image_size must be a multiple of {side}")
        _require(self.image_size % 32 == 0, "image_size must be a multiple of 32")
        fitting = all(w % h == 0 for w, h in zip(self.widths, self.num_heads, strict=True))
        _require(fitting, "widths must be multiples of num_heads")
        _require(all(a < b for a, b in pairwise(self.widths)), "every stage must be wider than the last")
        blocks = range(sum(self.depths))
        inner = set(blocks) - set(accumulate(self.depths))
        told = "global_attn_indexes must name blocks that begin no stage"
        _require(inner.issuperset(self.global_attn_indexes), told)
        _require(self.output_channels % 8 == 0, "output_channels must be a multiple of 8")
        _require(min(self.pixel_std) > 0, "pixel_std must be positive")
        return self


AnyEncoderConfig = EncoderConfig | TinyVitConfig | HieraConfig


class DecoderConfig(_Sizes):
    """SAM's prompt encoder and mask decoder; the defaults are SAM's.

    SAM 2's (``sam2``) adds finer features while it upsamples, has a token for the object's presence before the
    others, a sigmoid behind the predicted IoU, and takes one of the alternative masks where the single one is unstable.
    """

    kind: Literal["sam", "sam2"] = "sam"
    transformer_dim: PositiveInt = 256
    depth: PositiveInt = 2
    num_heads: PositiveInt = 8
    mlp_dim: PositiveInt = 2048
    attention_downsample_rate: PositiveInt = 2
    num_multimask_outputs: PositiveInt = 3
    iou_head_depth: int = Field(3, ge=2)
    iou_head_hidden_dim: PositiveInt = 256
    mask_in_chans: PositiveInt = 16

    @model_validator(mode="after")
    def _divides(self) -> Self:
        inner = self.num_heads * self.attention_downsample_rate
        _require(self.transformer_dim % inner == 0, f"transformer_dim must be a multiple of {inner}")
        _require(self.transformer_dim % 8 == 0, "transformer_dim must be a multiple of 8")
        _require(self.mask_in_chans % 4 == 0, "mask_in_chans must be a multiple of 4")
        return self


class HeatmapConfig(_Sizes):
    """CoPRS's heatmap head; `vector_dim` is D, the width of the language model's hidden state."""

    vector_dim: PositiveInt
    num_heads: PositiveInt = 4


class AdapterConfig(_Sizes):
    """ConverSeg-Net's adapter; `state_dim` is D, the width of the language model's hidden state."""

    state_dim: PositiveInt


class VisionConfig(_Sizes):
    """Everything that fixes the shapes of a `VisionModel`.

    Without `heatmap` and `adapter` its only prompts are visual ones.
    """

    encoder: Annotated[AnyEncoderConfig, Field(discriminator="kind")]
    decoder: DecoderConfig
    heatmap: HeatmapConfig | None = None
    adapter: AdapterConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        dim = self.decoder.transformer_dim
        _require(self.encoder.output_channels == dim, "output_channels must equal transformer_dim")
        both = (self.encoder.kind == "hiera", self.decoder.kind == "sam2")
        _require(both in ((True, True), (False, False)), "Hiera and SAM 2's decoder go together")
        _require(self.heatmap is None or not all(both), "SAM 2 has no place for a heatmap head")
        _require(self.adapter is None or all(both), "the adapter needs SAM 2")
        heads = self.heatmap.num_heads if self.heatmap else 1
        _require(dim % heads == 0, "transformer_dim must be a multiple of heatmap.num_heads")
        return self

    @property
    def image_size(self) -> int:
        """S: the side in pixels of the padded square that the encoder takes."""
        return self.encoder.image_size

    @property
    def vector_dim(self) -> int:
        """The width of a vector among the decoder's inputs; 1 for the blanks of a model without a heatmap head."""
        return self.heatmap.vector_dim if self.heatmap else 1

    @property
    def fit(self) -> Fit:
        """How an image comes to fill the square."""
        return self.encoder.fit if isinstance(self.encoder, HieraConfig) else "corner"

    @property
    def feature_shapes(self) -> tuple[Shape, ...]:
        """The shapes (C, h, w) of an image's features: the embedding's, then those of finer ones, if there are any."""
        channels, side = self.decoder.transformer_dim, self.grid
        coarse = (channels, side, side)
        if self.decoder.kind == "sam":
            return (coarse,)
        return coarse, (channels // 4, 2 * side, 2 * side), (channels // 8, 4 * side, 4 * side)

    @property
    def grid(self) -> int:
        """g: the side of the image embedding, in patches."""
        return self.encoder.image_size // self.encoder.patch_size

    @property
    def mask_size(self) -> int:
        """4g: the side of the positional prior and of the mask logits."""
        return 4 * self.grid


def load_config(path: Path) -> VisionConfig:
    """The config stored in the directory `path`.

    Raises:
        BundleError: the file is missing or does not hold a `VisionConfig`.
    """
    try:
        return VisionConfig.model_validate_json((path / CONFIG_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise BundleError(f"{path / CONFIG_FILE}: {error}") from error


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
