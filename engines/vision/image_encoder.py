"""Image encoders: transformers' `SamVisionEncoder` with attention that trains and exports well, TinyViT, or Hiera."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam.configuration_sam import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from engines.vision.config import AnyEncoderConfig, HieraConfig, TinyVitConfig
from engines.vision.hiera import HieraEncoder
from engines.vision.recipe import PositionForm
from engines.vision.tiny_vit import TinyVit


class RelPosAttention(nn.Module):
    """Attention over `side` × `side` cells with decomposed relative positions (Li et al., MViTv2).

    State names and results are those of transformers' `SamVisionAttention`. The position bias enters through
    the product of queries and keys, [q / √d, rows, columns] · [k, one-hot row, one-hot column], so that no
    bias of the size of the scores is ever made. Training on a CPU in bfloat16 autocast this takes 0.4 of the
    time of scaled_dot_product_attention, which leaves its fused kernel where the bias has a gradient; on CUDA,
    without a bias, it keeps it. With `positions` "added" the bias is made and added to the scores.
    """

    offsets: Tensor  # (side, side) int64: the row of a rel-pos table that belongs to (query, key)
    places: (
        Tensor  # (side · side, d + 2 · side) float32: d zeros, one-hot row and one-hot column of every cell
    )

    def __init__(self, hidden_size: int, num_heads: int, side: int) -> None:
        super().__init__()
        head_dim = hidden_size // num_heads
        self.num_heads = num_heads
        self.positions: PositionForm = "concatenated"
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, head_dim))
        cells = torch.arange(side)
        self.register_buffer("offsets", cells[:, None] - cells[None, :] + side - 1, persistent=False)
        self.register_buffer("places", F.pad(_one_hot_places(side), (head_dim, 0)), persistent=False)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        """(B, side, side, C) to the same shape; the None stands for attention weights, which nobody reads."""
        _, height, width, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, side · side, d)
        rows, columns = self._biases(query.unflatten(2, (height, width)))
        query = query * query.shape[-1] ** -0.5
        if self.positions == "added":
            bias = rows.unsqueeze(-1) + columns.unsqueeze(-2)  # (B, heads, y, x, key y, key x)
            mixed = _attend(query, key, value, bias.flatten(4, 5).flatten(2, 3))
        else:
            query = torch.cat([query, rows.flatten(2, 3), columns.flatten(2, 3)], dim=-1)
            # Padded and added, not concatenated: that would need the batch's size, which graphs do not know.
            key = F.pad(key, (0, height + width)) + self.places.to(key.dtype)
            mixed = _attend(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2).unflatten(1, (height, width)))
        return out, None

    def _biases(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, heads, y, x, d) to their biases (B, heads, y, x, key y) and (B, heads, y, x, key x)."""
        rows = cells @ self.rel_pos_h[self.offsets].transpose(1, 2)
        columns = cells.transpose(2, 3) @ self.rel_pos_w[self.offsets].transpose(1, 2)
        return rows, columns.transpose(2, 3)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """`query` (scaled) and `key` (B, heads, N, e), `value` (B, heads, N, d) to (B, heads, N, d)."""
    return (fused if query.is_cuda else written_out)(query, key, value, bias)


def written_out(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """`_attend` as three operations."""
    scores = query @ key.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1).to(value.dtype) @ value


def fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """`_attend` as one. Flash attention wants values as wide as keys, up to 256: they are padded for it."""
    width = value.shape[-1]
    padded = F.pad(value, (0, query.shape[-1] - width))
    return F.scaled_dot_product_attention(query, key, padded, attn_mask=bias, scale=1.0)[..., :width]


def _one_hot_places(side: int) -> Tensor:
    """For each cell of the flattened square its one-hot row, then its one-hot column."""
    eye = torch.eye(side)
    return torch.cat([eye.repeat_interleave(side, dim=0), eye.repeat(side, 1)], dim=-1)


ImageEncoder: TypeAlias = SamVisionEncoder | TinyVit | HieraEncoder


def build_image_encoder(config: AnyEncoderConfig) -> ImageEncoder:
    """An encoder of these sizes, not yet initialised; a `SamVisionEncoder` has `RelPosAttention` inside."""
    if isinstance(config, TinyVitConfig):
        return TinyVit(config)
    if isinstance(config, HieraConfig):
        return HieraEncoder(config)
    encoder = SamVisionEncoder(
        SamVisionConfig(
            hidden_size=config.hidden_size,
            output_channels=config.output_channels,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            mlp_dim=config.mlp_dim,
            window_size=config.window_size,
            global_attn_indexes=list(config.global_attn_indexes),
            layer_norm_eps=config.layer_norm_eps,
        )
    )
    for layer in encoder.layers:
        side = layer.window_size or config.image_size // config.patch_size
        layer.attn = RelPosAttention(config.hidden_size, config.num_attention_heads, side)
    return encoder


def run_image_encoder(encoder: ImageEncoder, pixels: Tensor) -> tuple[Tensor, ...]:
    """Normalised `pixels` (B, 3, S, S) to embeddings (B, C, g, g) and finer features, if the encoder makes any.

    Transformers' own `forward` would record outputs besides.
    """
    if isinstance(encoder, HieraEncoder):
        return encoder(pixels)  # type: ignore[no-any-return]
    if isinstance(encoder, TinyVit):
        return (encoder(pixels),)
    hidden = encoder.patch_embed(pixels) + encoder.pos_embed
    for layer in encoder.layers:
        hidden = layer(hidden)
    return (encoder.neck(hidden),)


class PixelNormaliser(nn.Module):
    """From bytes to the encoder's input. Holds constants only, none of them saved with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: AnyEncoderConfig) -> None:
        super().__init__()
        self.black_padding = isinstance(config, HieraConfig)
        self.register_buffer("mean", torch.tensor(config.pixel_mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.pixel_std), persistent=False)

    def forward(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """`pixels` uint8 (B, S, S, 3) and valid `sizes` int64 (B, 2) as (h, w) to float32 (B, 3, S, S).

        The padding, below h and right of w, is 0 *after* normalising, as in SAM; where SAM 2 is padded, it is black.
        """
        normalised = (pixels.float() - self.mean) / self.std
        if self.black_padding:
            return normalised.permute(0, 3, 1, 2)
        inside = valid_area(sizes, pixels.shape[1])
        return (normalised * inside.unsqueeze(-1)).permute(0, 3, 1, 2)


def valid_area(sizes: Tensor, side: int) -> Tensor:
    """`sizes` (B, 2) as (h, w) in cells of a `side` × `side` square to a bool map (B, side, side)."""
    cells = torch.arange(side, device=sizes.device)
    rows = cells[None, :, None] < sizes[:, 0, None, None]
    columns = cells[None, None, :] < sizes[:, 1, None, None]
    return rows & columns
