"""TinyViT (Wu et al., 2022) as MobileSAM's image encoder, its batch norms folded into the convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.vision.config import TinyVitConfig
from engines.vision.layers import LayerNorm2d


class MbConv(nn.Module):
    """Widen, mix neighbours channel by channel, narrow again; with a residual."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.conv3 = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        mixed = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(mixed))


class PatchMerging(nn.Module):
    """From one stage's channels and resolution to the next one's."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, padding=1, groups=out_channels)
        self.conv3 = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        out: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return out


class WindowAttention(nn.Module):
    """Attention among the cells of a window, with a learned bias for each distance in rows and columns."""

    distances: Tensor  # (side · side, side · side) int64: the column of `attention_biases` of (query, key)

    def __init__(self, channels: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, side * side))
        rows, columns = torch.arange(side * side) // side, torch.arange(side * side) % side
        apart = (rows[:, None] - rows).abs() * side + (columns[:, None] - columns).abs()
        self.register_buffer("distances", apart, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, side · side, C) to the same shape."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (self.num_heads, 3, -1))
        query, key, value = qkv.permute(3, 0, 2, 1, 4)  # each (B, heads, cells, d)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        mixed = (scores + self.attention_biases[:, self.distances]).softmax(dim=-1) @ value
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class _CellMlp(nn.Module):
    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, channels * ratio)
        self.fc2 = nn.Linear(channels * ratio, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class AttentionBlock(nn.Module):
    """Attention within windows, a 3 × 3 convolution across their borders, and an MLP."""

    def __init__(self, channels: int, num_heads: int, window: int, mlp_ratio: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, num_heads, window)
        self.local_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.mlp = _CellMlp(channels, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        attended = x.permute(0, 2, 3, 1) + self._attend(x.permute(0, 2, 3, 1))
        cells = self.local_conv(attended.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = (cells + self.mlp(cells)).permute(0, 3, 1, 2)
        return out

    def _attend(self, x: Tensor) -> Tensor:
        """Attention in each window of (B, H, W, C); what is missing at the right and below is 0, and takes part."""
        height, width, side = x.shape[1], x.shape[2], self.window
        padded = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.unflatten(2, (columns, side)).unflatten(1, (rows, side)).transpose(2, 3)
        attended = self.attn(windows.flatten(0, 2).flatten(1, 2))
        back = attended.unflatten(1, (side, side)).unflatten(0, (-1, rows, columns)).transpose(2, 3)
        whole: Tensor = back.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return whole


class _Stage(nn.Module):
    def __init__(self, blocks: list[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class _Stem(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            nn.Conv2d(3, channels // 2, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.seq(pixels)
        return out


class TinyVit(nn.Module):
    """State names are MobileSAM's; a convolution and its batch norm, ``c`` and ``bn`` there, are one here."""

    def __init__(self, config: TinyVitConfig) -> None:
        super().__init__()
        first, last, out = config.widths[0], config.widths[-1], config.output_channels
        self.patch_embed = _Stem(first)
        self.layers = nn.ModuleList(_stage(config, number) for number in range(len(config.widths)))
        self.neck = nn.Sequential(
            nn.Conv2d(last, out, 1, bias=False),
            LayerNorm2d(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            LayerNorm2d(out),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised `pixels` (B, 3, S, S) to embeddings (B, C, S / 16, S / 16)."""
        x = self.patch_embed(pixels)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.neck(x)
        return out


def _stage(config: TinyVitConfig, number: int) -> _Stage:
    width, depth = config.widths[number], config.depths[number]
    if number == 0:
        blocks: list[nn.Module] = [MbConv(width, config.expansion) for _ in range(depth)]
    else:
        heads, window = config.num_heads[number], config.window_sizes[number]
        blocks = [AttentionBlock(width, heads, window, config.mlp_ratio) for _ in range(depth)]
    if number == len(config.widths) - 1:
        return _Stage(blocks, None)
    return _Stage(blocks, PatchMerging(width, config.widths[number + 1], config.strides[number]))
