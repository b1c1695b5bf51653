"""How one figure of a query goes along with another: the heatmap's IoU with the mask's (CoPRS, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Relation:
    """Pearson's correlation of `count` pairs, and the line of least squares, y = slope · x + intercept."""

    count: int
    correlation: float
    slope: float
    intercept: float


def relate(xs: Sequence[float], ys: Sequence[float]) -> Relation | None:
    """The relation of two figures; None for fewer than two pairs, or if one of the figures never changes.

    Raises:
        ValueError: there are not as many of one as of the other.
    """
    if len(xs) != len(ys):
        raise ValueError(f"{len(xs)} figures cannot go with {len(ys)}")
    if len(xs) < 2 or np.ptp(xs) == 0 or np.ptp(ys) == 0:
        return None
    x, y = np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64)
    dx, dy = x - x.mean(), y - y.mean()
    slope = float((dx @ dy) / (dx @ dx))
    correlation = float((dx @ dy) / np.sqrt((dx @ dx) * (dy @ dy)))
    return Relation(len(x), correlation, slope, float(y.mean() - slope * x.mean()))
