"""What a scene makes true: who is where, who covers whom and how much, and what can be asked for at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MIN_VISIBLE_SHARE = 0.25  # of the object's own area
MIN_VISIBLE_AREA = 0.004  # of the image
COVERED = 0.03  # the share of an object that has to be covered before anyone speaks of it

_SIDE = 8
SQUARES = tuple(f"{column}{row + 1}" for column in ascii_lowercase[:_SIDE] for row in range(_SIDE))
"""Of the image, in reading order."""
_COLUMNS = ("left", "", "right")
_ROWS = ("top", "", "bottom")


class SceneObject(Protocol):
    """The fields of a scene's object that the language needs; masks are bool `[H, W]`."""

    @property
    def kind(self) -> str: ...
    @property
    def colour(self) -> str: ...
    @property
    def amodal(self) -> NDArray[np.bool_]: ...
    @property
    def modal(self) -> NDArray[np.bool_]: ...
    @property
    def hidden(self) -> float: ...
    @property
    def covered_by(self) -> tuple[int, ...]: ...
    @property
    def centre(self) -> tuple[float, float]: ...
    @property
    def seen_centre(self) -> tuple[float, float]: ...


class Scene(Protocol):
    """A scene: its objects from back to front."""

    @property
    def objects(self) -> Sequence[SceneObject]: ...


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene. `x`, `y` in 0..1 of the image; `u`, `v` the same in units of the longer side."""

    index: int
    kind: str
    colour: str
    x: float
    y: float
    u: float
    v: float
    square: str  # where it is seen, on an 8x8 grid as in a spreadsheet: "a1" is top left, "h1" top right
    hidden: float
    coverers: tuple[tuple[int, float], ...]  # (index, share of this thing that it covers), the greatest first
    beneath: frozenset[int]  # what stands before any of this thing, be it a hair or itself covered there
    askable: bool  # shows enough of itself, and what covers it is known

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"

    @property
    def cell(self) -> str:
        """The field of a 3x3 grid: "top left", "top", ..., "centre", ..., "bottom right"."""
        row, column = _ROWS[third(self.y)], _COLUMNS[third(self.x)]
        return f"{row} {column}".strip() or "centre"


@dataclass(frozen=True, slots=True)
class Facts:
    """All things of a scene, by index, and nothing about their looks."""

    things: tuple[Thing, ...]

    def named(self, kind: str, colour: str | None = None) -> tuple[Thing, ...]:
        """The things of that kind and colour; None stands for any."""
        return tuple(t for t in self.things if t.kind == kind and colour in (None, t.colour))


def in_reading_order(things: Iterable[Thing]) -> list[Thing]:
    """From left to right, and within a column of squares from top to bottom."""
    return sorted(things, key=lambda thing: (thing.square, thing.index))


def third(value: float) -> int:
    """0, 1 or 2: the third of the unit interval that `value` lies in."""
    return min(2, max(0, int(value * 3)))


def observe(scene: Scene) -> Facts:
    """The facts of a scene. Costs a few passes over the masks, so do it once for all queries of a scene."""
    return Facts(tuple(_thing(scene, index) for index in range(len(scene.objects))))


def _thing(scene: Scene, index: int) -> Thing:
    item = scene.objects[index]
    height, width = item.amodal.shape
    longest = max(height, width)
    area = int(np.count_nonzero(item.amodal))
    visible = int(np.count_nonzero(item.modal))
    x, y = item.centre
    coverers = [(other, _cover(item, scene.objects[other]) / max(area, 1)) for other in item.covered_by]
    return Thing(
        index=index,
        kind=item.kind,
        colour=item.colour,
        x=x,
        y=y,
        u=x * width / longest,
        v=y * height / longest,
        square=_square(*item.seen_centre),
        hidden=item.hidden,
        coverers=tuple(sorted(coverers, key=lambda pair: (-pair[1], pair[0]))),
        beneath=frozenset(
            index + ahead
            for ahead, other in enumerate(scene.objects[index:])
            if ahead and bool((item.amodal & other.amodal).any())
        ),
        askable=_shows(area, visible, height * width) and (bool(coverers) or item.hidden < COVERED),
    )


def _square(x: float, y: float) -> str:
    column, row = (min(_SIDE - 1, int(place * _SIDE)) for place in (x, y))
    return f"{ascii_lowercase[column]}{row + 1}"


def _shows(area: int, visible: int, image: int) -> bool:
    return visible >= MIN_VISIBLE_SHARE * area and visible >= MIN_VISIBLE_AREA * image


def _cover(item: SceneObject, other: SceneObject) -> int:
    """Pixels of `item` where `other` is what one sees instead."""
    return int(np.count_nonzero(item.amodal & other.modal))
