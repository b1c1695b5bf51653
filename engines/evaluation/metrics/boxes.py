"""Boxes: [x, y, width, height] in pixels, and how well two of them fit."""

from __future__ import annotations

import numpy as np

from engines.evaluation.metrics.overlaps import Mask

Box = tuple[float, float, float, float]


def box_of(mask: Mask) -> Box | None:
    """The smallest box around a mask [H, W]; None around an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    return float(left), float(top), float(int(columns[-1]) + 1 - left), float(int(rows[-1]) + 1 - top)


def box_iou(one: Box | None, other: Box | None) -> float:
    """Intersection over union of two boxes; 0 where one is missing, 1 where both are."""
    if one is None or other is None:
        return float(one is other)
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union else 0.0
