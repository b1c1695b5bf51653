"""How well outlines fit: boundary IoU (Cheng et al., Boundary IoU, 2021)."""

from __future__ import annotations

import math

import cv2
import numpy as np

from engines.evaluation.metrics.overlaps import Mask, Overlap, overlap

WIDTH = 0.02
"""The boundary's width as a share of the picture's diagonal, as in the paper."""


def boundary(mask: Mask, width: float = WIDTH) -> Mask:
    """The pixels of a mask [H, W] that lie within `width` of its outline, counted inwards.

    `width` is a share of the picture's diagonal and makes at least one pixel; distance is measured as on a
    chessboard, as the paper's code does. What lies beyond the picture's edge counts as outside the mask.
    """
    inside = np.zeros(mask.shape, dtype=np.bool_)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return inside
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    pixels = max(1, round(width * math.hypot(*mask.shape)))
    framed = np.pad(mask[part].astype(np.uint8), 1)
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), dtype=np.uint8)
    core = cv2.erode(framed, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)[1:-1, 1:-1]
    inside[part] = mask[part] & ~core.astype(np.bool_)
    return inside


def boundary_overlap(prediction: Mask, truth: Mask, width: float = WIDTH) -> Overlap:
    """The overlap of two masks' boundaries.

    Raises:
        ValueError: the masks' sizes differ.
    """
    return overlap(boundary(prediction, width), boundary(truth, width))
