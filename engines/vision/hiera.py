"""SAM 2's image encoder: transformers' Hiera and feature pyramid, with what its decoder does once an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel, Sam2VisionNeck

from engines.vision.config import HieraConfig


class HieraEncoder(nn.Module):
    """Hiera (Ryali et al., 2023) with a feature pyramid, as SAM 2 has it (Ravi et al., 2024).

    State names below ``backbone`` and ``neck`` are transformers'. ``conv_s0`` and ``conv_s1`` belong to SAM 2's mask
    decoder, but see only the image; ``no_memory`` is what stands for the memory of earlier frames.
    """

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        channels = config.output_channels
        sizes = _transformers_config(config)
        self.backbone = Sam2HieraDetModel(sizes.backbone_config)
        self.neck = Sam2VisionNeck(sizes)
        self.conv_s0 = nn.Conv2d(channels, channels // 8, kernel_size=1)
        self.conv_s1 = nn.Conv2d(channels, channels // 4, kernel_size=1)
        self.no_memory = nn.Parameter(torch.zeros(channels))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Normalised `pixels` (B, 3, S, S) to (B, C, S / 16, S / 16), (B, C / 4, S / 8, …), (B, C / 8, S / 4, …)."""
        fine, middle, coarse = self._pyramid(self._stages(pixels))
        return coarse + self.no_memory[:, None, None], self.conv_s1(middle), self.conv_s0(fine)

    def _stages(self, pixels: Tensor) -> list[Tensor]:
        """The last features (B, h, w, C') of every stage."""
        hidden = self.backbone.patch_embed(pixels)
        hidden = hidden + self.backbone._get_pos_embed(hidden.shape[1:3])
        ends = []
        for number, block in enumerate(self.backbone.blocks):
            hidden = block(hidden)
            if number in self.backbone.stage_ends:
                ends.append(hidden)
        return ends

    def _pyramid(self, stages: list[Tensor]) -> list[Tensor]:
        """Three levels (B, C, h, w), the finest first; the coarsest stage only lends to the one before it.

        The neck's own `forward` also makes position codes, which nobody here reads.
        """
        levels: list[Tensor] = []
        for number in reversed(range(len(stages))):
            lateral = self.neck.convs[len(stages) - 1 - number](stages[number].permute(0, 3, 1, 2))
            if levels and number in self.neck.fpn_top_down_levels:
                lateral = lateral + F.interpolate(levels[-1], scale_factor=2.0, mode="nearest")
            levels.append(lateral)
        return levels[:0:-1]


def _transformers_config(config: HieraConfig) -> Sam2VisionConfig:
    backbone = Sam2HieraDetConfig(
        hidden_size=config.widths[0],
        num_attention_heads=config.num_heads[0],
        image_size=[config.image_size] * 2,
        window_positional_embedding_background_size=[config.background_size] * 2,
        blocks_per_stage=list(config.depths),
        embed_dim_per_stage=list(config.widths),
        num_attention_heads_per_stage=list(config.num_heads),
        window_size_per_stage=list(config.window_sizes),
        global_attention_blocks=list(config.global_attn_indexes),
        attn_implementation="sdpa",
    )
    return Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=list(reversed(config.widths)),
        fpn_hidden_size=config.output_channels,
    )
