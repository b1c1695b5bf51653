"""How well the mask type is chosen, and how far the probability of the choice can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.events import MaskType

TYPES: tuple[MaskType, MaskType] = ("modal", "amodal")
BINS = 10


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice: `confidence` is the model's probability of `decided` (None for a failed query: unknown)."""

    wanted: MaskType
    decided: MaskType | None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Bin:
    """The decisions whose confidence lies in `low` (exclusive, but for 0) to `high`: their means."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The expected calibration error, and the bins of the reliability curve that hold any decision."""

    ece: float
    bins: tuple[Bin, ...]


def confusion(decisions: Sequence[Decision]) -> dict[str, dict[str, int]]:
    """How often each type was wanted and each decided: ``matrix[wanted][decided]``; "none" for no decision."""
    matrix = {wanted: dict.fromkeys((*TYPES, "none"), 0) for wanted in TYPES}
    for each in decisions:
        matrix[each.wanted][each.decided or "none"] += 1
    return {wanted: dict(row) for wanted, row in matrix.items()}


def calibration(decisions: Sequence[Decision], bins: int = BINS) -> Calibration | None:
    """The expected calibration error over equal bins (Guo et al., On Calibration, 2017).

    Decisions without a confidence do not count; None where none counts.
    """
    known = [
        (each.confidence, each.decided == each.wanted) for each in decisions if each.confidence is not None
    ]
    if not known:
        return None
    filled: dict[int, list[tuple[float, bool]]] = {}
    for confidence, right in known:
        place = next(i for i in range(bins) if confidence <= (i + 1) / bins or i == bins - 1)
        filled.setdefault(place, []).append((confidence, right))
    curve = tuple(_bin(place, bins, filled[place]) for place in sorted(filled))
    gaps = sum(each.count * abs(each.accuracy - each.confidence) for each in curve)
    return Calibration(gaps / len(known), curve)


def _bin(place: int, bins: int, members: list[tuple[float, bool]]) -> Bin:
    return Bin(
        low=place / bins,
        high=(place + 1) / bins,
        count=len(members),
        confidence=sum(confidence for confidence, _ in members) / len(members),
        accuracy=sum(right for _, right in members) / len(members),
    )
