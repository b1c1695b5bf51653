"""SAM's prompt encoder: mask prompts become a dense bias, points and box corners become sparse tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engines.vision.layers import LayerNorm2d
from engines.vision.visual_prompt import BOX_MAX, BOX_MIN, NOT_A_POINT


class FourierPositions(nn.Module):
    """Random Fourier features of 2-D positions (Tancik et al., 2020), as SAM uses them."""

    positional_encoding_gaussian_matrix: Tensor  # (2, dim / 2)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, dim // 2))

    def forward(self, positions: Tensor) -> Tensor:
        """`positions` (..., 2) as (x, y) in 0..1 to (..., dim), always computed in float32."""
        with torch.autocast(positions.device.type, enabled=False):
            matrix = self.positional_encoding_gaussian_matrix.float()
            angles = 2 * math.pi * ((2 * positions.float() - 1) @ matrix)
            return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, side: int) -> Tensor:
        """The features of the centres of a square grid's cells: (1, dim, side, side)."""
        device = self.positional_encoding_gaussian_matrix.device
        centres = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        features: Tensor = self(torch.stack([x, y], dim=-1))
        return features.permute(2, 0, 1).unsqueeze(0)


class PromptEncoder(nn.Module):
    """Embeds prompts; state names are segment-anything's."""

    def __init__(self, dim: int, image_size: int, mask_in_chans: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.pe_layer = FourierPositions(dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            nn.GELU(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            nn.GELU(),
            nn.Conv2d(mask_in_chans, dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def embed_masks(self, logits: Tensor) -> Tensor:
        """Mask prompts (B, 1, 4g, 4g), logits, to the dense bias (B, C, g, g)."""
        dense: Tensor = self.mask_downscaling(logits)
        return dense

    def no_mask(self) -> Tensor:
        """The dense bias (1, C, 1, 1) that stands for "no mask prompt"."""
        return self.no_mask_embed.weight.reshape(1, -1, 1, 1)

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """`points` (B, P, 2) as (x, y) in pixels of the padded square, `labels` (B, P): tokens (B, P, C).

        Labels are those of `engines.vision.visual_prompt`, where the caller's part of SAM's rules is, too.
        """
        positions = self.pe_layer((points + 0.5) / self.image_size)
        kinds = torch.cat([self.not_a_point_embed.weight, *self.point_embeddings.parameters()])
        placed: Tensor = positions * (labels != NOT_A_POINT).unsqueeze(-1)
        return placed + kinds[labels + 1]

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """`boxes` (B, 4) as (x0, y0, x1, y1) in pixels of the padded square to two tokens each (B, 2, C)."""
        labels = torch.tensor([BOX_MIN, BOX_MAX], device=boxes.device).expand(len(boxes), 2)
        return self.embed_points(boxes.unflatten(-1, (2, 2)), labels)
