"""How well masks fit: gIoU and cIoU with the conventions of R2SM and gRefCOCO, and matching of instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Pixels that a prediction and the truth share, and pixels that either of them has."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where both masks are empty, as gRefCOCO scores a query without a target."""
        return self.intersection / self.union if self.union else 1.0


def overlap(prediction: Mask, truth: Mask) -> Overlap:
    """Compare two masks [H, W] of one picture.

    Raises:
        ValueError: their sizes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction is {prediction.shape}, the truth {truth.shape}")
    intersection = int(np.count_nonzero(prediction & truth))
    return Overlap(
        intersection, int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth)) - intersection
    )


def giou(overlaps: Sequence[Overlap]) -> float | None:
    """The mean of the queries' IoUs (Liu et al., GRES, 2023); None without queries."""
    return mean([each.iou for each in overlaps])


def ciou(overlaps: Sequence[Overlap]) -> float | None:
    """All intersections together over all unions together; None where no mask has a pixel."""
    union = sum(each.union for each in overlaps)
    return sum(each.intersection for each in overlaps) / union if union else None


def fuse(masks: Sequence[Mask], shape: tuple[int, int]) -> Mask:
    """The union of masks [H, W]; empty where there are none.

    Raises:
        ValueError: a mask has another shape.
    """
    for mask in masks:
        if mask.shape != shape:
            raise ValueError(f"a mask is {mask.shape}, the picture {shape}")
    if not masks:
        return np.zeros(shape, dtype=np.bool_, order="F")
    fused = masks[0].copy(order="K")  # masks that lie alike in memory are combined much faster
    for mask in masks[1:]:
        fused |= mask
    return fused


def instance_ious(predictions: Sequence[Mask], truths: Sequence[Mask]) -> list[float]:
    """The IoU of each true instance with the prediction that the best one-to-one matching gives it, or 0.

    The best matching is the one with the largest sum. Meant for the few objects of one query: it takes time
    proportional to 2 to the power of `predictions`.
    """
    ious = [[overlap(prediction, truth).iou for prediction in predictions] for truth in truths]

    @cache
    def best(row: int, free: int) -> tuple[float, tuple[float, ...]]:
        """The largest sum, with its IoUs, over the truths from `row` on and the predictions in the set `free`."""
        if row == len(ious):
            return 0.0, ()
        total, rest = best(row + 1, free)
        choices = [(total, (0.0, *rest))]
        for column, iou in enumerate(ious[row]):
            if free >> column & 1:
                total, rest = best(row + 1, free & ~(1 << column))
                choices.append((total + iou, (iou, *rest)))
        return max(choices)

    return list(best(0, (1 << len(predictions)) - 1)[1])


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None without values."""
    return sum(values) / len(values) if values else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that a share (0..1) of the values does not exceed, interpolated linearly; None without values."""
    return float(np.quantile(values, share)) if values else None
