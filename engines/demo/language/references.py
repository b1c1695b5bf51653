"""Descriptions of things, and the resolver that says which things of a scene they clearly mean."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from engines.demo.language.facts import COVERED, Facts, Thing, in_reading_order

Side = Literal["left", "right", "top", "bottom"]
Relation = Literal["behind", "in front of", "left of", "right of", "above", "below", "next to"]

SIDES: tuple[Side, ...] = ("left", "right", "top", "bottom")
BESIDE: tuple[Relation, ...] = ("left of", "right of", "above", "below", "next to")
CORNERS = ("top left", "top right", "bottom left", "bottom right", "centre")

MARGIN = 0.07  # between neighbours in an order, as a share of the image's side
INSIDE = 0.03  # how far within its field a thing has to lie
OUTSIDE = 0.05  # how far out of that field every rival has to lie
NEAR = 0.3  # between the centres of things next to each other, as a share of the image's longer side
MOST_TARGETS = 3


@dataclass(frozen=True, slots=True)
class Group:
    """Things of some kinds (empty: any kind) and a colour (None: any colour)."""

    kinds: tuple[str, ...] = ()
    colour: str | None = None

    def members(self, facts: Facts) -> tuple[Thing, ...]:
        return tuple(
            t
            for t in facts.things
            if (not self.kinds or t.kind in self.kinds) and (self.colour is None or t.colour == self.colour)
        )


@dataclass(frozen=True, slots=True)
class One:
    """The only member of a group: "the red mug"."""

    group: Group


@dataclass(frozen=True, slots=True)
class Every:
    """All two or three members of a group: "both books"."""

    group: Group


@dataclass(frozen=True, slots=True)
class Several:
    """Two or three single things: "the mug and the red ball"."""

    parts: tuple[One, ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """The rank-th member of a group (0: the first) counted from a side: "the second mug from the left"."""

    group: Group
    side: Side
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """The only member of a group in a corner or at the centre of the picture."""

    group: Group
    cell: str


@dataclass(frozen=True, slots=True)
class Related:
    """The only member of a group that stands in a relation to an anchor: "the mug behind the blue box"."""

    group: Group
    relation: Relation
    anchor: One


@dataclass(frozen=True, slots=True)
class Useful:
    """What serves a purpose. `kinds` serve it; `doubtful` kinds might, so they must not be in the scene."""

    purpose: str
    kinds: tuple[str, ...]
    doubtful: tuple[str, ...]


Description = One | Every | Several | Ranked | Placed | Related | Useful


def resolve(description: Description, facts: Facts) -> tuple[int, ...] | None:
    """Indices of the things meant, in reading order; None where none, too many or no clear ones are meant.

    Every thing meant shows enough of itself to be asked for.
    """
    things = _meant(description, facts)
    if not things or len(things) > MOST_TARGETS or not all(t.askable for t in things):
        return None
    return tuple(t.index for t in in_reading_order(things))


def _meant(description: Description, facts: Facts) -> tuple[Thing, ...]:
    match description:
        case One(group):
            return _only(group.members(facts))
        case Every(group):
            members = group.members(facts)
            return members if len(members) > 1 else ()
        case Several(parts):
            found = [_only(part.group.members(facts)) for part in parts]
            things = tuple(dict.fromkeys(t for group_of_one in found for t in group_of_one))
            return things if len(things) == len(parts) else ()
        case Ranked(group, side, rank):
            return _ranked(group.members(facts), side, rank)
        case Placed(group, cell):
            return _placed(group.members(facts), cell)
        case Related(group, relation, anchor):
            anchors = _only(anchor.group.members(facts))
            known = anchors and anchors[0].askable
            return _related(group.members(facts), relation, anchors[0]) if known else ()
        case Useful(_, kinds, doubtful):
            doubt = doubtful and Group(doubtful).members(facts)
            return () if doubt else Group(kinds).members(facts)


def _only(members: tuple[Thing, ...]) -> tuple[Thing, ...]:
    return members if len(members) == 1 else ()


def along(thing: Thing, side: Side) -> float:
    """Distance of a thing's centre from a side of the picture, in 0..1."""
    return {"left": thing.x, "right": 1 - thing.x, "top": thing.y, "bottom": 1 - thing.y}[side]


def ordered(members: tuple[Thing, ...], side: Side) -> list[Thing]:
    """The members, the one nearest to `side` first."""
    return sorted(members, key=lambda t: (along(t, side), t.index))


def _ranked(members: tuple[Thing, ...], side: Side, rank: int) -> tuple[Thing, ...]:
    order = ordered(members, side)
    if len(order) < max(2, rank + 1):
        return ()
    distances = [along(t, side) for t in order[: rank + 2]]
    clear = all(after - before >= MARGIN for before, after in pairwise(distances))
    return (order[rank],) if clear else ()


def _placed(members: tuple[Thing, ...], cell: str) -> tuple[Thing, ...]:
    inside = tuple(t for t in members if _within(t, cell, -INSIDE))
    near = [t for t in members if _within(t, cell, OUTSIDE)]
    return inside if len(inside) == 1 and len(near) == 1 else ()


def _within(thing: Thing, cell: str, margin: float) -> bool:
    """Whether the centre lies in the field of the 3x3 grid, grown (or shrunk) inwards by `margin`."""
    words = cell.split()
    low = {"left": -1.0, "right": 2 / 3, "top": -1.0, "bottom": 2 / 3}
    high = {"left": 1 / 3, "right": 2.0, "top": 1 / 3, "bottom": 2.0}
    column = next((w for w in words if w in ("left", "right")), "")
    row = next((w for w in words if w in ("top", "bottom")), "")
    across = low.get(column, 1 / 3) - margin <= thing.x <= high.get(column, 2 / 3) + margin
    return across and low.get(row, 1 / 3) - margin <= thing.y <= high.get(row, 2 / 3) + margin


def _related(members: tuple[Thing, ...], relation: Relation, anchor: Thing) -> tuple[Thing, ...]:
    others = tuple(t for t in members if t.index != anchor.index)
    if relation == "next to":
        return _nearest(others, anchor)
    possible = tuple(t for t in others if _strength(t, relation, anchor) > 0)
    return possible if len(possible) == 1 and _strength(possible[0], relation, anchor) >= 1 else ()


def _strength(thing: Thing, relation: Relation, anchor: Thing) -> float:
    """0: the relation does not hold; 1 and more: it holds clearly; between: one could argue."""
    match relation:
        case "behind":
            return _share(thing, anchor) / COVERED
        case "in front of":
            return _share(anchor, thing) / COVERED
        case "left of":
            return _aside(anchor.u - thing.u, anchor.v - thing.v)
        case "right of":
            return _aside(thing.u - anchor.u, anchor.v - thing.v)
        case "above":
            return _aside(anchor.v - thing.v, anchor.u - thing.u)
        case "below":
            return _aside(thing.v - anchor.v, anchor.u - thing.u)
        case "next to":
            raise ValueError("nearness is a matter of comparison")


def _share(thing: Thing, coverer: Thing) -> float:
    """Share of `thing` that `coverer` covers; a hair where that is less than counts, or under something else."""
    hair = 1e-6 if coverer.index in thing.beneath else 0.0
    return max(dict(thing.coverers).get(coverer.index, 0.0), hair)


def _aside(ahead: float, across: float) -> float:
    if ahead <= 0.02:
        return 0.0
    return 1.0 if ahead >= 0.1 and ahead >= 0.7 * abs(across) else 0.5


def rivalled(group: Group, anchor: One, facts: Facts) -> bool:
    """Whether several members are near the anchor, so that only the nearest can be asked for."""
    [thing] = anchor.group.members(facts)
    others = (t for t in group.members(facts) if t.index != thing.index)
    return sum(_distance(t, thing) <= NEAR for t in others) > 1


def _nearest(others: tuple[Thing, ...], anchor: Thing) -> tuple[Thing, ...]:
    order = sorted(others, key=lambda t: (_distance(t, anchor), t.index))
    if not order or _distance(order[0], anchor) > NEAR:
        return ()
    rival = _distance(order[1], anchor) if len(order) > 1 else 1.0
    return (order[0],) if rival >= 1.35 * _distance(order[0], anchor) + 0.02 else ()


def _distance(one: Thing, other: Thing) -> float:
    return float(((one.u - other.u) ** 2 + (one.v - other.v) ** 2) ** 0.5)
