"""The losses: dense labels, masks, words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.demo.scenes import COLOURS, KINDS

_GROUPS = (len(KINDS) + 1, len(COLOURS) + 1) * 2


def dense_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of [..., 2*CLASSES] logits with the shares of kinds and colours, visible and hidden.

    Cells with something in them count eight times as much as bare ones; kinds are hardest and count double.
    """
    losses = []
    parts = zip(logits.float().split(_GROUPS, -1), shares.split(_GROUPS, -1), (2, 1, 1, 1), strict=True)
    for predicted, wanted, factor in parts:
        entropy = -(wanted * F.log_softmax(predicted, -1)).sum(-1)
        weight = 1 + 7 * (1 - wanted[..., -1])
        losses.append(factor * (entropy * weight).sum() / weight.sum())
    return torch.stack(losses).sum()


def owner_loss(places: Tensor, owners: Tensor) -> Tensor:
    """How far places [N, 2] are from the centres in owners [N, 3], weighted by the share in its last column."""
    weight = owners[:, 2]
    squares = (places.float() - owners[:, :2]).pow(2).sum(-1)
    return 20 * (squares * weight).sum() / weight.sum().clamp(min=1)


def mask_loss(logits: Tensor, shares: Tensor, inside: Tensor) -> Tensor:
    """Cross-entropy and dice loss of logits [N, h, w] with shares [N, h, w], where `inside` the image is 1."""
    logits = logits.float()
    entropy = F.binary_cross_entropy_with_logits(logits, shares, reduction="none") * inside
    filled = logits.sigmoid() * inside
    dice = 1 - (2 * (filled * shares).sum((1, 2)) + 1) / (filled.sum((1, 2)) + shares.sum((1, 2)) + 1)
    return 4 * (entropy.sum((1, 2)) / inside.sum((1, 2))).mean() + dice.mean()


def word_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of [N, vocabulary] logits."""
    entropy = F.cross_entropy(logits.float(), targets, reduction="none")
    return (entropy * weights).sum() / weights.sum()


def iou(logits: Tensor, shares: Tensor) -> Tensor:
    """IoU [N] of thresholded logits with thresholded shares."""
    filled, wanted = logits > 0, shares > 0.5
    both, either = (filled & wanted).sum((1, 2)), (filled | wanted).sum((1, 2))
    return both / either.clamp(min=1)
