"""Noun phrases with room for adjectives and clauses, and words for every kind of description."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

from engines.demo.language.facts import Facts, Thing
from engines.demo.language.lexicon import Purpose, join, lexicon
from engines.demo.language.references import (
    Description,
    Every,
    Group,
    One,
    Placed,
    Ranked,
    Related,
    Several,
    Side,
    Useful,
    along,
    ordered,
    rivalled,
)
from engines.demo.language.sought import RANKS
from engines.demo.language.templates import Grammar

_NUMBERS = {2: "two", 3: "three"}
_THIS = ("the",) * 12 + ("that", "this")
_HELPS = ("that helps", "I need", "that would help me", "I could use", "that is useful now", "for that")
_WHO_USES = ("you would use", "I could use", "one can use", "people use", "we might use", "you need")


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """ "the" + "red mug" + "behind the box". A `lead` is a sentence that goes before: "I am thirsty"."""

    head: str
    det: str = "the"
    post: str = ""
    plural: bool = False
    lead: str = ""
    bare: bool = False  # takes no adjective: "something to read"
    counted: bool = False  # takes no clause: of "the second mug that nothing covers" the first may be covered
    parts: tuple[NounPhrase, ...] = ()  # joined by "and"; head, det and post are empty then

    def text(self, adjective: str = "", clause: str = "") -> str:
        """The words, with an adjective before the head and a clause after it."""
        if self.parts:
            return join([part.text(adjective) for part in self.parts]) + (f" {clause}" if clause else "")
        words = (self.det, adjective, self.head, self.post, clause)
        return " ".join(word for word in words if word)


@cache
def places() -> Grammar:
    """The grammar of places and relations, compiled once."""
    return Grammar.load("places.txt")


def word(description: Description, facts: Facts, rng: random.Random) -> NounPhrase:
    """One way to say a description. Assumes that the description resolves in these facts."""
    match description:
        case One(group):
            return _single(group, rng)
        case Every(group):
            if rng.random() < 0.14:
                return NounPhrase(noun_of(group, rng), det=rng.choice(("every", "each")), bare=True)
            return _every(noun_of(group, rng, plural=True), len(group.members(facts)), rng)
        case Several(parts):
            return NounPhrase(
                "", det="", plural=True, parts=tuple(_single(part.group, rng) for part in parts)
            )
        case Ranked(group, side, rank):
            return _ranked(group, side, rank, facts, rng)
        case Placed(group, cell):
            return NounPhrase(noun_of(group, rng), post=_place(f"cell_{cell.replace(' ', '_')}", rng))
        case Related(group, relation, anchor):
            nearest = relation == "next to" and rivalled(group, anchor, facts)
            words = "nearest_to" if nearest else relation.replace(" ", "_")
            return _related(group, words, _single(anchor.group, rng), rng)
        case Useful(purpose, kinds, _):
            entry = next(p for p in lexicon().purposes if p.name == purpose)
            count = len(Group(kinds).members(facts))
            return useful(entry, rng) if count == 1 else _useful_things(entry, count, rng)


def name_of(thing: Thing, facts: Facts, rng: random.Random) -> str | None:
    """A definite name that means this thing only ("the blue box"), or None where there is none."""
    if len(facts.named(thing.kind, thing.colour)) > 1:
        return None
    alone = len(facts.named(thing.kind)) == 1
    group = Group((thing.kind,), None if alone and rng.random() < 0.6 else thing.colour)
    return f"the {noun_of(group, rng)}"


def noun_of(group: Group, rng: random.Random, plural: bool = False) -> str:
    """A noun for the members of a group: "red mug", "fruits", "blue thing"."""
    words = lexicon()
    if not group.kinds:
        noun = rng.choice(words.things)
    else:
        noun = words.kind(group.kinds[0], rng) if len(group.kinds) == 1 else "fruit"
    noun = words.plural(noun) if plural else noun
    return f"{words.colour(group.colour, rng)} {noun}" if group.colour else noun


def _single(group: Group, rng: random.Random) -> NounPhrase:
    if group.colour and rng.random() < 0.08:
        colour = lexicon().colour(group.colour, rng)
        post = rng.choice((f"that is {colour}", f"in {colour}", f"of {colour} colour"))
        return NounPhrase(noun_of(replace(group, colour=None), rng), post=post)
    if group.colour and not group.kinds and rng.random() < 0.2:
        return NounPhrase(f"{lexicon().colour(group.colour, rng)} one")
    return NounPhrase(noun_of(group, rng), det=rng.choice(_THIS))


def _every(nouns: str, count: int, rng: random.Random) -> NounPhrase:
    number = _NUMBERS[count]
    dets = ["the", f"the {number}", "all the", "all"]
    dets += ["both", "both", "both the", "both of the"] if count == 2 else ["all three", "all three of the"]
    det = rng.choice(dets)
    return NounPhrase(nouns, det=det, plural=True, bare=not det.startswith("the"))


def _ranked(group: Group, side: Side, rank: int, facts: Facts, rng: random.Random) -> NounPhrase:
    noun = noun_of(group, rng)
    if rank or rng.random() < 0.1:
        counted = places().expand("counted", rng, {"side": side})
        return NounPhrase(f"{RANKS[rank]} {noun}", post=counted, counted=rank > 0)
    first, second = (along(t, side) for t in ordered(group.members(facts), side)[:2])
    if first < 0.42 and second > 0.52 and rng.random() < 0.6:
        return NounPhrase(noun, post=_place(f"on_{side}", rng))
    if rng.random() < 0.6:
        return NounPhrase(f"{_place(f'most_{side}', rng)} {noun}")
    return NounPhrase(noun, post=_place(f"far_{side}", rng))


def _place(rule: str, rng: random.Random) -> str:
    return places().expand(rule, rng, {})


def _related(group: Group, rule: str, anchor: NounPhrase, rng: random.Random) -> NounPhrase:
    values = {"anchor": anchor.text()}
    if group == Group() and rng.random() < 0.35:
        return NounPhrase("", det="", post=places().expand(f"what_{rule}", rng, values), bare=True)
    return NounPhrase(noun_of(group, rng), post=places().expand(f"rel_{rule}", rng, values))


def useful(purpose: Purpose, rng: random.Random) -> NounPhrase:
    """The one thing that serves a purpose."""
    return rng.choice((_that_does, _to_use, _to_use, _used_by, _named, _needed))(purpose, rng)


def _that_does(purpose: Purpose, rng: random.Random) -> NounPhrase:
    does = rng.choice(purpose.that)
    if rng.random() < 0.4:
        return NounPhrase("", det=rng.choice(("what", "whatever", "something that")), post=does, bare=True)
    return NounPhrase(rng.choice(lexicon().things), post=f"{rng.choice(('that', 'which'))} {does}")


def _to_use(purpose: Purpose, rng: random.Random) -> NounPhrase:
    use = f"to {rng.choice(purpose.use)}"
    if rng.random() < 0.5:
        return NounPhrase(
            "", det=rng.choice(("something", "what I need", "a thing", "an object")), post=use, bare=True
        )
    return NounPhrase(rng.choice(lexicon().things), post=use)


def _used_by(purpose: Purpose, rng: random.Random) -> NounPhrase:
    return NounPhrase(
        rng.choice(lexicon().things), post=f"{rng.choice(_WHO_USES)} to {rng.choice(purpose.use)}"
    )


def _named(purpose: Purpose, rng: random.Random) -> NounPhrase:
    return NounPhrase(rng.choice(purpose.noun))


def _needed(purpose: Purpose, rng: random.Random) -> NounPhrase:
    wish = rng.choice(("I want to", "I would like to", "we want to", "my friend wants to", "somebody has to"))
    lead = (
        rng.choice(purpose.need)
        if purpose.need and rng.random() < 0.6
        else f"{wish} {rng.choice(purpose.use)}"
    )
    thing = rng.choice(lexicon().things)
    return NounPhrase(rng.choice((thing, thing, f"right {thing}")), post=rng.choice(_HELPS), lead=lead)


def _useful_things(purpose: Purpose, count: int, rng: random.Random) -> NounPhrase:
    """The two or three things that serve a purpose."""
    way, things = rng.random(), rng.choice(("things", "objects", "items"))
    if way < 0.5:
        return _every(lexicon().plural(rng.choice(purpose.noun)), count, rng)
    if way < 0.75:
        return NounPhrase(things, post=f"to {rng.choice(purpose.use)}", plural=True)
    post = rng.choice(("that would help", "I could use", "I need"))
    return NounPhrase(things, post=post, plural=True, lead=rng.choice(purpose.need))
