"""Descriptions said again in the reasoning's own few words: what was understood, before anything is looked for."""

from __future__ import annotations

from collections.abc import Sequence

from engines.demo.language.lexicon import article, join
from engines.demo.language.references import (
    Description,
    Every,
    Group,
    One,
    Placed,
    Ranked,
    Related,
    Relation,
    Several,
    Side,
    Useful,
)

RANKS = ("first", "second", "third")
SIDE_MOST: dict[Side, str] = {
    "left": "leftmost", "right": "rightmost", "top": "highest", "bottom": "lowest",
}  # fmt: skip


def sought(description: Description) -> str:
    """ "a mug behind a blue box". The kinds and colours of things by their first names, in the singular."""
    match description:
        case One(group):
            return article(noun(group))
        case Every(group):
            return f"every {noun(group)}"
        case Several(parts):
            return join([sought(part) for part in parts])
        case Ranked(group, side, 0):
            return f"the {SIDE_MOST[side]} {noun(group)}"
        case Ranked(group, side, rank):
            return f"the {RANKS[rank]} {noun(group)} from the {side}"
        case Placed(group, cell):
            return f"{article(noun(group))} at the {cell}"
        case Related(group, relation, anchor):
            return f"{article(noun(group))} {standing(relation)} {sought(anchor)}"
        case Useful(_, kinds, _):
            return article(any_of(kinds))


def standing(relation: Relation) -> str:
    """ "to the left of", "behind"."""
    return f"to the {relation}" if relation in ("left of", "right of") else relation


def noun(group: Group) -> str:
    """ "red mug", "red thing", "apple or banana", "thing"."""
    kind = any_of(group.kinds) if group.kinds else "thing"
    return f"{group.colour} {kind}" if group.colour else kind


def any_of(kinds: Sequence[str]) -> str:
    """ "mug, bottle or teapot"."""
    *others, last = kinds
    return f"{', '.join(others)} or {last}" if others else last
