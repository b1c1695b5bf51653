"""The short, true account of an answer: what is wanted, what is in view, anchors, targets, what covers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engines.demo.language.absences import Absence
from engines.demo.language.facts import COVERED, Facts, Thing, in_reading_order
from engines.demo.language.lexicon import article, join, lexicon
from engines.demo.language.references import (
    Description,
    Every,
    Group,
    One,
    Placed,
    Ranked,
    Related,
    Several,
    Useful,
    ordered,
)
from engines.demo.language.sought import RANKS, SIDE_MOST, sought, standing

MaskType = Literal["modal", "amodal"]
Mark = Literal["wanted", "possible", "found"]
"""What is said of a listed thing: asked for, one of those to choose from, or what the asked thing is related to."""

WANTED: dict[MaskType, str] = {
    "amodal": "The complete shape",
    "modal": "The visible part",
}
"""How every reasoning begins; then it says what of."""
IN_VIEW = "In view: "

_NUMBERS = {2: "two", 3: "three"}


@dataclass(frozen=True, slots=True)
class Account:
    """A reasoning text in its parts, each of whole sentences; `overview` and `covering` may be empty."""

    wanted: str
    overview: str
    finding: str
    covering: str

    @property
    def text(self) -> str:
        return " ".join(filter(None, (self.wanted, self.overview, self.finding, self.covering)))


def account(
    description: Description, targets: tuple[Thing, ...], facts: Facts, mask_type: MaskType
) -> Account:
    """The reasoning for a description that resolves to `targets` (in reading order)."""
    return Account(
        wanted=_wanted(mask_type, sought(description)),
        overview=overview(facts, _marks(description, targets, facts)),
        finding=_found(description, targets, facts),
        covering=_covering(targets, facts),
    )


def missing(absence: Absence, facts: Facts, mask_type: MaskType) -> Account:
    """The reasoning for an object that is not there."""
    wanted = _wanted(mask_type, absence.sought)
    return Account(wanted=wanted, overview=overview(facts, {}), finding=absence.why, covering="")


def _wanted(mask_type: MaskType, of: str) -> str:
    return f"{WANTED[mask_type]} of {of} is wanted."


def overview(facts: Facts, marks: dict[int, Mark]) -> str:
    """ "In view: c4 red mug wanted, g2 blue box." Names all that shows enough of itself; may be empty.

    Squares are read column by column. What is written down first needs no second look: places, orders and absences
    follow from this list and from its `marks`, by index of the thing.
    """
    shown = [thing for thing in in_reading_order(facts.things) if thing.askable]
    listed = (f"{thing.square} {thing.name} {marks.get(thing.index, '')}".rstrip() for thing in shown)
    return f"{IN_VIEW}{', '.join(listed)}." if shown else ""


def _marks(description: Description, targets: tuple[Thing, ...], facts: Facts) -> dict[int, Mark]:
    """What can be said of each thing while it is listed, before the others are compared with it."""
    match description:
        case Ranked(group) | Placed(group):
            return _possible(group, facts)
        case Related(group, _, anchor):
            return _possible(group, facts) | {t.index: "found" for t in anchor.group.members(facts)}
        case _:
            return {t.index: "wanted" for t in targets}


def _possible(group: Group, facts: Facts) -> dict[int, Mark]:
    """The members of a group; none where every thing is one."""
    narrow = group.kinds or group.colour
    return {t.index: "possible" for t in group.members(facts)} if narrow else {}


def placed(thing: Thing) -> str:
    """ "The red mug is at the top left."."""
    return f"The {thing.name} is at the {thing.cell}."


def _found(description: Description, targets: tuple[Thing, ...], facts: Facts) -> str:
    target = targets[0]
    match description:
        case One():
            return placed(target)
        case Every() | Several():
            return _list(targets)
        case Useful(purpose, _, _):
            return f"{_why(purpose, targets)} {_list(targets)}"
        case Related(_, relation, anchor):
            first = anchor.group.members(facts)[0]
            return f"{placed(first)} The {target.name} is {standing(relation)} it, at the {target.cell}."
        case Placed(group, cell):
            return f"{_survey(group, facts)} The one at the {cell} is the {target.name}.".strip()
        case Ranked(group, side, rank):
            survey = _survey(group, facts)
            ranked = SIDE_MOST[side] if rank == 0 else f"{RANKS[rank]} from the {side}"
            if survey:
                return f"{survey} The {ranked} is the {target.name}."
            if rank == 0:
                return f"The {ranked} is the {target.name}, at the {target.cell}."
            before = [t.name for t in ordered(group.members(facts), side)[:rank]]
            return (
                f"From the {side}: the {', the '.join(before)}, then the {target.name}, at the {target.cell}."
            )


def _why(purpose: str, targets: tuple[Thing, ...]) -> str:
    why = next(p.why for p in lexicon().purposes if p.name == purpose)
    kinds = dict.fromkeys(t.kind for t in targets)
    return " ".join(why.format(a=article(kind).capitalize()) for kind in kinds)


def _list(targets: tuple[Thing, ...]) -> str:
    sentences, seen = [], set[str]()
    for thing in targets:
        start = "Another" if thing.name in seen else "The"
        sentences.append(f"{start} {thing.name} is at the {thing.cell}.")
        seen.add(thing.name)
    return " ".join(sentences)


def _survey(group: Group, facts: Facts) -> str:
    """ "There are two mugs: red at the left and green at the right." Empty for other than two or three."""
    members = in_reading_order(group.members(facts))
    if len(members) not in _NUMBERS or not all(t.askable for t in members):
        return ""
    if group.kinds:
        noun = lexicon().plural(group.kinds[0])
        each = [f"{t.colour} at the {t.cell}" for t in members]
    elif group.colour:
        noun = f"{group.colour} objects"
        each = [f"{article(t.kind)} at the {t.cell}" for t in members]
    else:
        noun = "objects"
        each = [f"{article(t.name)} at the {t.cell}" for t in members]
    return f"There are {_NUMBERS[len(members)]} {noun}: {join(each)}."


def _covering(targets: tuple[Thing, ...], facts: Facts) -> str:
    covered = [t for t in targets if t.hidden >= COVERED and t.coverers]
    if not covered:
        return "Nothing covers it." if len(targets) == 1 else "Nothing covers them."
    if len(targets) == 1:
        return covering(covered[0], "it", facts)
    return " ".join(covering(t, f"the {t.name}", facts) for t in covered)


def covering(thing: Thing, name: str, facts: Facts) -> str:
    """ "The blue box covers part of the red mug."; `name` is what the covered thing is called."""
    first, *rest = thing.coverers
    coverers = [first, *(pair for pair in rest[:1] if pair[1] >= COVERED)]
    names = [_coverer(facts.things[index], thing, facts) for index, _ in coverers]
    verb = "covers" if len(names) == 1 else "cover"
    text = f"{join(names)} {verb} part of {name}."
    return text[0].upper() + text[1:]


def _coverer(coverer: Thing, covered: Thing, facts: Facts) -> str:
    if coverer.name == covered.name:
        return f"another {coverer.name}"
    alone = len(facts.named(coverer.kind, coverer.colour)) == 1
    return f"the {coverer.name}" if alone else article(coverer.name)
