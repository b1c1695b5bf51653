"""The regression gate: ratios of a short benchmark, kept with the noise that repeats of it showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from engines.errors import InvalidInput
from loadtests.bench.figures import FIGURES, Pairs

BAND = 2.0
"""A figure is worse beyond so many times the largest deviation that the repeats showed: one more measurement that goes
beyond the largest of five is nothing rare, and a gate that cries wolf is not looked at."""
RATIOS = Path(__file__).with_name("ratios.json")


class Kept(BaseModel):
    """One figure's ratio, and the largest deviation from it, as a share of it, among so many repeats."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: float
    noise: float
    repeats: int


KEPT = TypeAdapter(dict[str, Kept])


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure now and as it was kept; `worse`: by more than its band. `ratio` is None if it was not measured."""

    figure: str
    ratio: float | None
    kept: Kept
    worse: bool


def record(path: Path, repeats: Sequence[Pairs]) -> None:
    """Keep the medians of several whole benchmarks, and how far the repeats were from them."""
    path.write_bytes(KEPT.dump_json(noise_of(repeats), indent=2) + b"\n")


def noise_of(repeats: Sequence[Pairs]) -> dict[str, Kept]:
    """Each figure that every repeat has."""
    found = {}
    for name, figure in FIGURES.items():
        if figure.judged and all(name in pairs for pairs in repeats):
            ratios = [_ratio(pairs, name) for pairs in repeats]
            middle = median(ratios)
            noise = max(abs(ratio / middle - 1) for ratio in ratios) if middle else 0.0
            found[name] = Kept(ratio=round(middle, 4), noise=round(noise, 4), repeats=len(ratios))
    return found


def read_ratios(path: Path) -> dict[str, Kept]:
    """The kept ratios.

    Raises:
        InvalidInput: there are none, they cannot be read, or one is of a figure that is not measured.
    """
    if not path.exists():
        raise InvalidInput(f"{path} is not there: keep ratios first, with --record on a quiet machine")
    try:
        kept = KEPT.validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidInput(f"{path}: {error.errors(include_url=False)[0]['msg']}") from error
    if strange := kept.keys() - FIGURES.keys():
        raise InvalidInput(f"{path}: there is no figure {', '.join(sorted(strange))}")
    return kept


def compare(kept: Mapping[str, Kept], pairs: Pairs) -> list[Compared]:
    """Every kept figure; one that is no longer measured counts as worse."""
    found = []
    for name, before in kept.items():
        if not FIGURES[name].judged:
            continue
        ratio = _ratio(pairs, name) if name in pairs else None
        found.append(Compared(name, ratio, before, ratio is None or _is_worse(name, ratio, before)))
    return found


def as_table(compared: Sequence[Compared]) -> str:
    """For people: each figure, now and kept, with its band."""
    return "\n".join(
        f"{'WORSE' if one.worse else 'kept '} {one.figure:24} "
        f"{'–' if one.ratio is None else f'{one.ratio:.3f}':>8} kept {one.kept.ratio:.3f} ± {BAND * one.kept.noise:.0%}"
        for one in compared
    )


def _ratio(pairs: Pairs, name: str) -> float:
    return median(pair.ratio for pair in pairs[name])


def _is_worse(name: str, ratio: float, before: Kept) -> bool:
    if FIGURES[name].better == "<=":
        return ratio > before.ratio * (1 + BAND * before.noise)
    return ratio < before.ratio * (1 - BAND * before.noise)
