"""A Qwen2.5-VL's image tower in torch, plain enough to be converted: one image, every block sees all of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from engines.errors import BundleError
from engines.sight.config import PixelScale, TowerConfig

EPSILON = 1e-6
MIDDLE = 128
"""Pixels are counted from here: as numbers around 0 they are exact in bfloat16, and sums of them hardly cancel."""
PREFIXES = ("model.visual.", "visual.")
"""Of the tower's tensors: as today's transformers write them, and as they were published."""


class TowerGraph(nn.Module):
    """patches, uint8 (N, 3·P²), those of a token together; cos, sin (N, head_dim ÷ 2) → float32 (N ÷ merge², D).

    Scaling the pixels is folded into the first projection, and so are a still image's equal frames.
    """

    def __init__(self, config: TowerConfig, scale: PixelScale, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._config = config
        self._weights = weights
        self._projection, self._offset = fold_pixels(scale, weights["patch_embed.proj.weight"])

    def forward(self, patches: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The image's features, one row for each of its tokens."""
        x = functional.linear(patches.float() - MIDDLE, self._projection, self._offset)
        for block in range(self._config.depth):
            name = f"blocks.{block}"
            x = x + self._attend(f"{name}.attn", self._normed(f"{name}.norm1", x), cos, sin)
            x = x + self._mlp(f"{name}.mlp", self._normed(f"{name}.norm2", x))
        merged = self._config.hidden_size * self._config.spatial_merge_size**2
        x = self._normed("merger.ln_q", x).reshape(-1, merged)
        return self._linear("merger.mlp.2", functional.gelu(self._linear("merger.mlp.0", x)))

    def _attend(self, name: str, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        config = self._config
        qkv = self._linear(f"{name}.qkv", x).reshape(-1, 3, config.num_heads, config.head_dim)
        query, key, value = qkv.permute(1, 2, 0, 3).unbind()
        seen = functional.scaled_dot_product_attention(
            turned(query, cos, sin)[None], turned(key, cos, sin)[None], value[None]
        )
        return self._linear(f"{name}.proj", seen[0].permute(1, 0, 2).reshape(-1, config.hidden_size))

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        gate = functional.silu(self._linear(f"{name}.gate_proj", x))
        return self._linear(f"{name}.down_proj", gate * self._linear(f"{name}.up_proj", x))

    def _normed(self, name: str, x: Tensor) -> Tensor:
        size = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON)
        return x * size * self._weights[f"{name}.weight"]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (https://arxiv.org/abs/2104.09864) of x (H, N, d), its halves being the pairs."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def fold_pixels(scale: PixelScale, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The first projection (D, 3·P²) of pixels counted from `MIDDLE`, and its offset (D).

    `weight` is the checkpoint's own (D, 3, T, P, P), for scaled pixels.
    """
    still = weight.sum(2).flatten(2)
    mean, std = torch.tensor(scale.image_mean), torch.tensor(scale.image_std)
    middle = (MIDDLE * scale.rescale_factor - mean) / std
    projection = still * (scale.rescale_factor / std)[:, None]
    return projection.flatten(1), (still.sum(-1) * middle).sum(-1)


def read_weights(model: Path) -> dict[str, Tensor]:
    """The tower's tensors, float32, by their names within it. Raises BundleError."""
    found: dict[str, Tensor] = {}
    for file in sorted(model.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  # it is no mapping
                    if prefix := next((one for one in PREFIXES if name.startswith(one)), None):
                        found[name.removeprefix(prefix)] = tensors.get_tensor(name).float()
        except Exception as error:  # safetensors raises a class of its own, which is no subclass of any
            raise BundleError(f"{file}: {error}") from error
    return found
