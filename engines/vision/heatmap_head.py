"""CoPRS's heatmap head: a concentration vector and an image embedding make a positional prior."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

EMPTY_BIAS = -1.8  # CoPRS: priors begin slightly empty (a probability of 0.14 everywhere)


class HeatmapHead(nn.Module):
    """Multi-head scores of one query against every cell, fused to one logit map (CoPRS, section 3).

    State names are CoPRS's: ``q_proj``, ``k_proj`` (neither has a bias), ``fuser.0``, ``fuser.2``.
    """

    def __init__(self, vector_dim: int, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.q_proj = nn.Linear(vector_dim, channels, bias=False)
        self.k_proj = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.fuser = nn.Sequential(
            nn.Conv2d(num_heads, num_heads, kernel_size=3, padding=1),
            nn.SiLU(),
            nn.Conv2d(num_heads, 1, kernel_size=3, padding=1),
        )

    def start_empty(self) -> None:
        """Set the last bias so that an untrained head predicts nearly nothing anywhere."""
        nn.init.constant_(self.get_parameter("fuser.2.bias"), EMPTY_BIAS)

    def forward(self, embeddings: Tensor, vectors: Tensor) -> Tensor:
        """`embeddings` (B, C, g, g) and `vectors` (B, D) to prior logits (B, 1, 4g, 4g).

        The scores q·(W e) are computed as (q W)·e: the key projection costs one small product a query instead
        of one product a cell, and needs no copy of the keys when several queries share an image.
        """
        size = embeddings.shape[-2:]
        queries = self.q_proj(vectors).unflatten(-1, (self.num_heads, 1, -1))  # (B, heads, 1, d)
        keys = self.k_proj.weight.flatten(1).unflatten(0, (self.num_heads, -1))  # (heads, d, C)
        folded = (queries * self.scale @ keys).flatten(1, 2)  # (B, heads, C)
        scores = (folded @ embeddings.flatten(2)).unflatten(-1, size)  # (B, heads, g, g)
        return F.interpolate(self.fuser(scores), scale_factor=4.0, mode="bilinear", align_corners=False)
