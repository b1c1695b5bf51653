"""Confidence intervals by the bootstrap: how far a figure might move with other pictures."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
CHUNK = 100  # resamples drawn at a time, to bound the memory


@dataclass(frozen=True, slots=True)
class Interval:
    """The middle `share` of a figure's bootstrap distribution."""

    low: float
    high: float
    share: float = 0.95


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    groups: Sequence[Hashable],
    *,
    share: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """The interval of sum(numerators) / sum(denominators), by the percentile method.

    A mean has denominators of 1. Whole groups are drawn: the queries about one picture are not independent.
    None for fewer than two groups, or if every denominator is 0.
    """
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    if len(places) < 2 or not sum(denominators):
        return None
    index = np.array([places[group] for group in groups])
    above = np.bincount(index, np.asarray(numerators, dtype=np.float64))
    below = np.bincount(index, np.asarray(denominators, dtype=np.float64))
    random = np.random.default_rng(seed)
    ratios = []
    for start in range(0, resamples, CHUNK):
        drawn = random.integers(
            len(places), size=(min(CHUNK, resamples - start), len(places)), dtype=np.int32
        )
        whole = below[drawn].sum(axis=1)
        ratios.append(above[drawn].sum(axis=1)[whole > 0] / whole[whole > 0])
    low, high = np.quantile(np.concatenate(ratios), [(1 - share) / 2, (1 + share) / 2])
    return Interval(float(low), float(high), share)
