"""ConverSeg-Net's adapter: the states of a prompt's tokens become sparse prompts and a dense bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST_TEMPERATURE = 0.01


class StateAdapter(nn.Module):
    """A norm, and two projections behind it (Sahoo and Gkioxari, 2026; ``models/language_adapter.py`` there).

    State names are those of the published adapter.
    """

    def __init__(self, state_dim: int, channels: int) -> None:
        super().__init__()
        self.txt_norm = nn.LayerNorm(state_dim)
        self.to_sparse = nn.Linear(state_dim, channels)
        self.to_dense = nn.Sequential(
            nn.Linear(state_dim, channels), nn.SiLU(), nn.Linear(channels, channels)
        )
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.temp = nn.Parameter(torch.tensor(1.0))

    def forward(self, states: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """`states` (B, T, D) of the text's tokens, `ends` (B, D) of the turn's end: (B, T, C) and (B, C, 1, 1)."""
        sparse = self.to_sparse(self.txt_norm(states)) * self.scale
        dense = self.to_dense(self.txt_norm(ends)) * self.temp.clamp(min=LEAST_TEMPERATURE)
        return sparse, dense[:, :, None, None]
