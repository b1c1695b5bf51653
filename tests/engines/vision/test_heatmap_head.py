"""The heatmap head against CoPRS's formula, written out."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from engines.vision.heatmap_head import HeatmapHead
from tests.engines.vision.conftest import randomise


def _as_published(head: HeatmapHead, embeddings: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Project every cell to keys, then take dot products: the formula before any rearrangement."""
    batch, channels, height, width = embeddings.shape
    heads, width_of_head = head.num_heads, channels // head.num_heads
    queries = head.q_proj(vectors).view(batch, heads, width_of_head, 1, 1)
    keys = head.k_proj(embeddings).view(batch, heads, width_of_head, height, width)
    scores = (queries * keys).sum(dim=2) / width_of_head**0.5
    size = (4 * height, 4 * width)
    return F.interpolate(head.fuser(scores), size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def test_equals_the_published_formula() -> None:
    torch.manual_seed(1)
    head = HeatmapHead(vector_dim=12, channels=16, num_heads=4)
    randomise(head)
    embeddings, vectors = torch.randn(3, 16, 8, 8), torch.randn(3, 12)

    expected = _as_published(head, embeddings, vectors)

    assert expected.std() > 0.01
    torch.testing.assert_close(head(embeddings, vectors), expected, atol=1e-5, rtol=1e-4)


def test_state_names_are_those_of_coprs() -> None:
    head = HeatmapHead(vector_dim=2048, channels=256, num_heads=4)

    shapes = {name: tuple(value.shape) for name, value in head.state_dict().items()}

    assert shapes == {
        "q_proj.weight": (256, 2048),
        "k_proj.weight": (256, 256, 1, 1),
        "fuser.0.weight": (4, 4, 3, 3),
        "fuser.0.bias": (4,),
        "fuser.2.weight": (1, 4, 3, 3),
        "fuser.2.bias": (1,),
    }
