"""Applies an export recipe to a model: where its encoder computes in bfloat16, and how positions enter attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionEncoder

from engines.vision.model import VisionModel
from engines.vision.recipe import ExportRecipe


class InBfloat16(nn.Module):
    """A part of a network, computed in bfloat16 between float32 input and output."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.to(torch.bfloat16)

    def forward(self, hidden_states: Tensor) -> Any:
        """What the part makes of `hidden_states`, its tensor in float32."""
        out = self.part(hidden_states.to(torch.bfloat16))
        return (out[0].float(), *out[1:]) if isinstance(out, tuple) else out.float()


def apply(recipe: ExportRecipe, model: VisionModel) -> bool:
    """Change `model` in place, and tell whether the recipe is for its kind: a TinyViT and a Hiera stay as they are.

    Its state names change with `block_precision`.
    """
    encoder = model.image_encoder
    if not isinstance(encoder, SamVisionEncoder):
        return False
    for layer in encoder.layers:
        layer.attn.positions = recipe.window_positions if layer.window_size else recipe.global_positions
        if recipe.block_precision == "bf16":
            layer.attn, layer.mlp = InBfloat16(layer.attn), InBfloat16(layer.mlp)
    return True
