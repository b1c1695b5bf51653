"""First weights for training from scratch; transformers leaves SAM's near zero, made to be loaded over."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionEncoder

from engines.vision.heatmap_head import HeatmapHead
from engines.vision.image_encoder import RelPosAttention
from engines.vision.layers import LayerNorm2d


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Initialise every parameter below `module` from torch's global generator.

    Linear layers: Xavier uniform, bias 0. Norms: 1 and 0. Convolutions: weights normal with variance
    1 / fan-in, biases uniform within 1 / √fan-in; with a bias of 0 the norm after the first convolution of
    the mask prompt would leave nothing of a logit but its sign. Token embeddings: normal with deviation 1,
    as segment-anything's. Relative positions: normal with deviation 0.02. Absolute positions: 2-D sine and
    cosine (He et al., MAE), learned from there. The heatmap head's last bias is CoPRS's −1.8. The Fourier
    matrix of the prompt encoder stays as it was drawn.
    """
    for part in module.modules():
        _initialise_part(part)
    for part in module.modules():
        if isinstance(part, HeatmapHead):
            part.start_empty()


def _initialise_part(part: nn.Module) -> None:
    match part:
        case nn.Linear():
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        case nn.Conv2d():
            _initialise_convolution(part, fan_in=part.weight[0].numel())
        case nn.ConvTranspose2d():  # stride equals the kernel: every output sees each input channel once
            _initialise_convolution(part, fan_in=part.in_channels)
        case nn.LayerNorm() | LayerNorm2d():
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        case nn.Embedding():
            nn.init.normal_(part.weight)
        case RelPosAttention():
            nn.init.normal_(part.rel_pos_h, std=0.02)
            nn.init.normal_(part.rel_pos_w, std=0.02)
        case SamVisionEncoder():
            part.pos_embed.copy_(sine_positions(part.pos_embed.shape[1], part.pos_embed.shape[-1]))


def _initialise_convolution(part: nn.Conv2d | nn.ConvTranspose2d, fan_in: int) -> None:
    deviation = fan_in**-0.5
    nn.init.normal_(part.weight, std=deviation)
    if part.bias is not None:
        nn.init.uniform_(part.bias, -deviation, deviation)


def sine_positions(side: int, dim: int) -> Tensor:
    """2-D sine and cosine features of a grid's cells, (1, side, side, dim): half for y, half for x."""
    frequencies = 10000 ** (-torch.arange(dim // 4) / (dim // 4))
    angles = torch.arange(side)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (side, dim / 2)
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).unsqueeze(0)
