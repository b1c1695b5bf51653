"""Noun phrases with room for adjectives and clauses, and the words of the descriptions that a scene supports."""

from __future__ import annotations

import random
from dataclasses import dataclass

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
    Relation,
    Several,
    Side,
    Useful,
)


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """ "the" + "red mug" + "behind the box". A `lead` is a sentence that goes before: "I am thirsty"."""

    head: str
    det: str = "the"
    post: str = ""
    plural: bool = False
    lead: str = ""
    bare: bool = False  # takes no adjectives: "something to read"
    parts: tuple[NounPhrase, ...] = ()

    def text(self, adjective: str = "", clause: str = "") -> str:
        """The words, with an adjective before the head and a clause after it."""
        if self.parts:
            return join([part.text(adjective) for part in self.parts]) + (f" {clause}" if clause else "")
        words = (self.det, adjective, self.head, self.post, clause)
        return " ".join(word for word in words if word)


_SIDE_WORDS: dict[Side, tuple[str, ...]] = {
    "left": ("leftmost", "left-most", "outermost left", "far left"),
    "right": ("rightmost", "right-most", "outermost right", "far right"),
    "top": ("topmost", "highest", "uppermost", "top"),
    "bottom": ("bottommost", "lowest", "lowermost", "bottom"),
}
_SIDE_CLAUSES: dict[Side, tuple[str, ...]] = {
    "left": ("furthest to the left", "on the far left", "closest to the left edge", "most to the left"),
    "right": ("furthest to the right", "on the far right", "closest to the right edge", "most to the right"),
    "top": ("furthest up", "closest to the top edge", "nearest to the upper edge", "that is highest up"),
    "bottom": (
        "furthest down",
        "closest to the bottom edge",
        "nearest to the lower edge",
        "that is lowest down",
    ),
}
_RANKS = ("first", "second", "third")
_CELL_WORDS = {
    "top left": ("top left", "upper left", "top left-hand"),
    "top right": ("top right", "upper right", "top right-hand"),
    "bottom left": ("bottom left", "lower left", "bottom left-hand"),
    "bottom right": ("bottom right", "lower right", "bottom right-hand"),
}
_CENTRE_CLAUSES = (
    "in the middle", "in the centre", "at the centre", "in the middle of the picture", "in the centre of the image",
    "in the very middle", "at the centre of the photo",
)  # fmt: skip
_RELATION_WORDS: dict[Relation, tuple[str, ...]] = {
    "behind": ("behind", "behind", "behind", "that is behind", "at the back of", "which stands behind", "in back of"),
    "in front of": ("in front of", "in front of", "that is in front of", "that covers", "covering", "which overlaps",
                    "that stands in front of", "blocking"),
    "left of": ("left of", "to the left of", "on the left of", "that is left of", "on the left side of"),
    "right of": ("right of", "to the right of", "on the right of", "that is right of", "on the right side of"),
    "above": ("above", "that is above", "higher up than", "further up than", "over"),
    "below": ("below", "that is below", "lower down than", "further down than", "beneath"),
    "next to": ("next to", "beside", "near", "close to", "closest to", "nearest to", "by the side of", "right next to"),
}  # fmt: skip


def word(description: Description, facts: Facts, rng: random.Random) -> NounPhrase:
    """One way to say a description. Assumes that the description resolves in these facts."""
    match description:
        case One(group):
            return _single(group, rng)
        case Every(group):
            return _every(group, len(group.members(facts)), rng)
        case Several(parts):
            phrases = [_single(part.group, rng) for part in parts]
            rng.shuffle(phrases)
            return NounPhrase("", det="", plural=True, parts=tuple(phrases))
        case Ranked(group, side, rank):
            return _ranked(group, side, rank, rng)
        case Placed(group, cell):
            return NounPhrase(_noun(group, rng), post=_place(cell, rng))
        case Related(group, relation, anchor):
            return _related(group, relation, _single(anchor.group, rng), rng)
        case Useful(purpose, _, _):
            count = len(Group(description.kinds).members(facts))
            return useful(next(p for p in lexicon().purposes if p.name == purpose), count, rng)


def name_of(thing: Thing, facts: Facts, rng: random.Random) -> str | None:
    """A definite name that means this thing only ("the blue box"), or None where there is none."""
    if len(facts.named(thing.kind, thing.colour)) > 1:
        return None
    alone = len(facts.named(thing.kind)) == 1
    group = Group((thing.kind,), None if alone and rng.random() < 0.6 else thing.colour)
    return f"the {_noun(group, rng)}"


def _noun(group: Group, rng: random.Random, plural: bool = False) -> str:
    words = lexicon()
    noun = words.kind(group.kinds[0], rng) if group.kinds else rng.choice(words.things)
    if group.kinds == ("apple", "banana"):
        noun = "fruit"
    noun = words.plural(noun) if plural else noun
    return f"{words.colour(group.colour, rng)} {noun}" if group.colour else noun


def _single(group: Group, rng: random.Random) -> NounPhrase:
    noun = _noun(group, rng)
    if group.colour and rng.random() < 0.08:
        noun = _noun(Group(group.kinds), rng)
        colour = lexicon().colour(group.colour, rng)
        return NounPhrase(noun, post=rng.choice((f"that is {colour}", f"in {colour}", f"of {colour} colour")))
    if group.colour and not group.kinds and rng.random() < 0.2:
        return NounPhrase(f"{lexicon().colour(group.colour, rng)} one")
    return NounPhrase(noun, det=rng.choice(("the", "the", "the", "the", "the", "the", "the", "that", "this")))


def _every(group: Group, count: int, rng: random.Random) -> NounPhrase:
    number = {2: "two", 3: "three"}[count]
    dets = ["the", f"the {number}", f"all {number}", "all the", "all", f"all {number} of the"]
    if count == 2:
        dets += ["both", "both", "both the", "both of the"]
    det = rng.choice(dets)
    return NounPhrase(_noun(group, rng, plural=True), det=det, plural=True, bare=not det.startswith("the"))


def _ranked(group: Group, side: Side, rank: int, rng: random.Random) -> NounPhrase:
    noun = _noun(group, rng)
    if rank or rng.random() < 0.12:
        origin = rng.choice(("from the {}", "counting from the {}", "from {}", "counted from the {}"))
        return NounPhrase(f"{_RANKS[rank]} {noun}", post=origin.format(side))
    if rng.random() < 0.6:
        return NounPhrase(f"{rng.choice(_SIDE_WORDS[side])} {noun}")
    return NounPhrase(noun, post=rng.choice(_SIDE_CLAUSES[side]))


def _place(cell: str, rng: random.Random) -> str:
    if cell == "centre":
        return rng.choice(_CENTRE_CLAUSES)
    where = rng.choice(_CELL_WORDS[cell])
    picture = rng.choice(("", "", " of the picture", " of the image", " of the photo"))
    return f"{rng.choice(('in', 'at'))} the {where} {rng.choice(('', 'corner', 'part'))}".rstrip() + picture


def _related(group: Group, relation: Relation, anchor: NounPhrase, rng: random.Random) -> NounPhrase:
    where = f"{rng.choice(_RELATION_WORDS[relation])} {anchor.text()}"
    if not group.kinds and not group.colour and rng.random() < 0.3:
        if relation == "in front of" and rng.random() < 0.6:
            verb = rng.choice(
                ("covers", "overlaps", "hides a part of", "is covering", "stands in front of", "blocks")
            )
            return NounPhrase("", det="what", post=f"{verb} {anchor.text()}", bare=True)
        is_clause = relation in ("behind", "in front of", "left of", "right of", "above", "below", "next to")
        if is_clause:
            return NounPhrase(
                "", det=rng.choice(("what", "whatever")), post=f"is {relation} {anchor.text()}", bare=True
            )
    return NounPhrase(_noun(group, rng), post=where)


def useful(purpose: Purpose, count: int, rng: random.Random) -> NounPhrase:
    """What serves a purpose, as one thing or, for `count` above one, as several."""
    way = rng.random()
    if count > 1:
        number = {2: "two", 3: "three"}.get(count, "")
        noun = lexicon().plural(rng.choice(purpose.noun))
        if way < 0.5:
            return _every_noun(noun, number, rng)
        things = rng.choice(("things", "objects", "items"))
        if way < 0.75:
            return NounPhrase(things, post=f"to {rng.choice(purpose.use)}", plural=True)
        lead = rng.choice(purpose.need)
        return NounPhrase(
            things, post=rng.choice(("that would help", "I could use", "I need")), plural=True, lead=lead
        )
    thing = rng.choice(lexicon().things)
    if way < 0.22:
        det, post = rng.choice(
            (("what", ""), ("whatever", ""), ("the", thing), ("the", thing), ("something", ""))
        )
        that = "that " if post or det == "something" else ""
        return NounPhrase(post, det=det, post=f"{that}{rng.choice(purpose.that)}", bare=not post)
    if way < 0.44:
        det = rng.choice(("something", "the", "the", "a", "what I need"))
        head = {"something": "", "what I need": ""}.get(det, "object" if det == "a" else thing)
        if det == "a":
            det, head = "an", "object"
        return NounPhrase(head, det=det, post=f"to {rng.choice(purpose.use)}", bare=not head)
    if way < 0.6:
        who = rng.choice(("you", "I", "one", "people", "we"))
        verb = rng.choice(("would use", "could use", "can use", "might use"))
        return NounPhrase(thing, post=f"{who} {verb} to {rng.choice(purpose.use)}")
    if way < 0.75:
        return NounPhrase(rng.choice(purpose.noun))
    lead = rng.choice(purpose.need) if rng.random() < 0.6 else f"I want to {rng.choice(purpose.use)}"
    post = rng.choice(
        ("that helps", "I need", "that would help me", "I could use", "that is useful now", "for that")
    )
    return NounPhrase(rng.choice((thing, f"right {thing}")), post=post, lead=lead)


def _every_noun(noun: str, number: str, rng: random.Random) -> NounPhrase:
    det = rng.choice(("the", "all the", "all", f"all {number}", f"the {number}"))
    return NounPhrase(noun, det=det, plural=True, bare=not det.startswith("the"))
