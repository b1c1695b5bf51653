"""Draws references from a scene: a description that resolves, its targets, its words and its form."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from engines.demo.language.facts import Facts, Thing
from engines.demo.language.lexicon import lexicon
from engines.demo.language.phrases import NounPhrase, word
from engines.demo.language.references import (
    BESIDE,
    CORNERS,
    SIDES,
    Description,
    Every,
    Group,
    One,
    Placed,
    Ranked,
    Related,
    Relation,
    Several,
    Useful,
    resolve,
)

Form = Literal["attribute", "position", "relation", "function", "plural", "absent"]

_TRIES = 6
_FRUIT = ("apple", "banana")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a prompt asks for: `targets` index the scene's objects, in reading order."""

    form: Form
    description: Description
    targets: tuple[int, ...]
    phrase: NounPhrase


def propose(form: Form, facts: Facts, rng: random.Random) -> Reference | None:
    """A reference of that form, or None where a few draws found none that is clear in this scene."""
    draw = _DRAWS[form]
    for _ in range(_TRIES):
        description = draw(facts, rng)
        if description is None:
            continue
        targets = resolve(description, facts)
        if targets is not None:
            return Reference(form, description, targets, word(description, facts, rng))
    return None


def _thing(facts: Facts, rng: random.Random) -> Thing | None:
    """A thing worth asking for; partly covered ones twice as often."""
    candidates = [t for t in facts.things if t.askable]
    candidates += [t for t in candidates if t.hidden >= 0.05]
    return rng.choice(candidates) if candidates else None


def _group_of(thing: Thing, rng: random.Random) -> Group:
    """Kind and colour, or the kind, or the colour of a thing."""
    way = rng.random()
    if way < 0.5:
        return Group((thing.kind,), thing.colour)
    return Group((thing.kind,)) if way < 0.85 else Group((), thing.colour)


def _attribute(facts: Facts, rng: random.Random) -> Description | None:
    thing = _thing(facts, rng)
    return One(_group_of(thing, rng)) if thing else None


def _position(facts: Facts, rng: random.Random) -> Description | None:
    thing = _thing(facts, rng)
    if thing is None:
        return None
    group = _position_group(thing, facts, rng)
    if rng.random() < 0.35:
        cell = thing.cell if thing.cell in CORNERS else rng.choice(CORNERS)
        return Placed(group, cell)
    rank = rng.choice((0, 0, 0, 0, 1, 1, 2)) if len(group.members(facts)) > 2 else rng.choice((0, 0, 0, 0, 1))
    return Ranked(group, rng.choice(SIDES), rank)


def _position_group(thing: Thing, facts: Facts, rng: random.Random) -> Group:
    """Prefers a group with rivals, so that the position is what decides."""
    groups = [Group((thing.kind,)), Group((), thing.colour), Group((thing.kind,), thing.colour)]
    contested = [g for g in groups if len(g.members(facts)) > 1]
    way = rng.random()
    if contested and way < 0.6:
        return rng.choice(contested)
    return Group() if way < 0.85 else rng.choice(groups)


def _relation(facts: Facts, rng: random.Random) -> Description | None:
    pair = _pair(facts, rng)
    if pair is None:
        return None
    thing, relation, anchor = pair
    alone = len(facts.named(anchor.kind)) == 1
    known = One(Group((anchor.kind,), None if alone and rng.random() < 0.5 else anchor.colour))
    way = rng.random()
    group = Group() if way < 0.3 else Group((thing.kind,), thing.colour if way > 0.75 else None)
    return Related(group, relation, known)


def _pair(facts: Facts, rng: random.Random) -> tuple[Thing, Relation, Thing] | None:
    covering = [(t, facts.things[index]) for t in facts.things for index, _ in t.coverers]
    if covering and rng.random() < 0.6:
        behind, front = rng.choice(covering)
        return (behind, "behind", front) if rng.random() < 0.6 else (front, "in front of", behind)
    if len(facts.things) < 2:
        return None
    thing, anchor = rng.sample(facts.things, 2)
    return thing, rng.choice(BESIDE), anchor


def _function(facts: Facts, rng: random.Random) -> Description | None:
    thing = _thing(facts, rng)
    if thing is None:
        return None
    purposes = [p for p in lexicon().purposes if thing.kind in p.kinds]
    purpose = rng.choice(purposes)
    return Useful(purpose.name, purpose.kinds, purpose.doubtful)


def _plural(facts: Facts, rng: random.Random) -> Description | None:
    groups = [Group((t.kind,)) for t in facts.things] + [Group((), t.colour) for t in facts.things]
    groups += [Group((t.kind,), t.colour) for t in facts.things] + [Group(_FRUIT)]
    wide = [g for g in dict.fromkeys(groups) if 1 < len(g.members(facts)) < 4]
    if wide and rng.random() < 0.5:
        return Every(rng.choice(wide))
    candidates = [t for t in facts.things if t.askable]
    count = 2 if rng.random() < 0.65 else 3
    if len(candidates) < count:
        return None
    return Several(tuple(One(_part_of(t, facts, rng)) for t in rng.sample(candidates, count)))


def _part_of(thing: Thing, facts: Facts, rng: random.Random) -> Group:
    alone = len(facts.named(thing.kind)) == 1
    return Group((thing.kind,), None if alone and rng.random() < 0.6 else thing.colour)


_DRAWS: dict[str, Callable[[Facts, random.Random], Description | None]] = {
    "attribute": _attribute,
    "position": _position,
    "relation": _relation,
    "function": _function,
    "plural": _plural,
}
