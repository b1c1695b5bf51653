"""Lists as a model writes them, which errs, beside what it should have written at each step.

A model that has only read true lists does not know how to go on after its own slip: having written a square too far
to the right it passes over what stands before it, or names the same thing twice. So the trainer shows it lists with
slips and asks at each step for what is still missing, as DAgger does (Ross et al. 2011, "A Reduction of Imitation
Learning and Structured Prediction to No-Regret Online Learning").
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from engines.demo.language.facts import SQUARES
from engines.demo.language.reasoning import IN_VIEW

ASTRAY = 0.2
"""The share of listed things whose square is one off."""
LATE = 0.08
"""The share of listed things that are passed over at first."""
_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))


@dataclass(frozen=True, slots=True)
class Listed:
    """A thing in a list: its true square, and how it is called and marked."""

    square: str
    words: str


def stray(overview: str, rng: random.Random) -> tuple[str, str]:
    """A list with slips in it, and the list that should be written after each of its beginnings.

    Both have the same things in the same order, so that they differ in squares alone: where the second has a
    square, it is that of the first thing, in the order of `overview`, that the first has not yet named.
    """
    if not overview:
        return "", ""
    things = [
        Listed(*item.split(" ", 1)) for item in overview.removeprefix(IN_VIEW).removesuffix(".").split(", ")
    ]
    told = _slipped(things, rng)
    meant, left = [], list(things)
    for thing, _ in told:
        meant.append((thing, left[0].square))
        left.remove(thing)
    return _text(told), _text(meant)


def _slipped(things: list[Listed], rng: random.Random) -> list[tuple[Listed, str]]:
    """The things with the squares that are written, in the order of these, but for those that come late."""
    taken = {t.square for t in things}
    squares = [_beside(t.square, taken, rng) if rng.random() < ASTRAY else t.square for t in things]
    told = sorted(zip(things, squares, strict=True), key=lambda pair: pair[1])
    for pair in [pair for pair in told if rng.random() < LATE]:
        place = told.index(pair)
        told.insert(rng.randint(place, len(told) - 1), told.pop(place))
    return told


def _beside(square: str, taken: set[str], rng: random.Random) -> str:
    """One to the left or right, above or below; the same at the image's edge and where another thing is.

    Who has written another thing's square should go on with that thing's name, so it teaches nothing about this one.
    """
    right, down = rng.choice(_STEPS)
    beside = chr(ord(square[0]) + right) + chr(ord(square[1]) + down)
    return beside if beside in SQUARES and beside not in taken else square


def _text(listed: list[tuple[Listed, str]]) -> str:
    return f"{IN_VIEW}{', '.join(f'{square} {thing.words}' for thing, square in listed)}."
