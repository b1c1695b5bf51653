"""Things that a scene does not show, how people ask for them, and why they are not there."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from engines.demo.language.facts import Facts
from engines.demo.language.lexicon import join, lexicon
from engines.demo.language.phrases import NounPhrase, useful


@dataclass(frozen=True, slots=True)
class Absence:
    """A noun phrase that means nothing in the scene; `why` says so in one or two sentences."""

    phrase: NounPhrase
    why: str


def absent(facts: Facts, rng: random.Random) -> Absence:
    """Something that is not in the scene."""
    draw = rng.choices(_DRAWS, _WEIGHTS)[0]
    return draw(facts, rng) or _outside(facts, rng)


def _outside(facts: Facts, rng: random.Random) -> Absence:
    words = lexicon()
    noun = rng.choice(words.outside)
    plural = rng.random() < 0.15
    head = words.plural(noun) if plural else noun
    if rng.random() < 0.35:
        head = f"{rng.choice((*words.adjectives, *words.colours))} {head}"
    phrase = NounPhrase(head, plural=plural, post=_somewhere(facts, rng), det=_det(plural, rng))
    return Absence(phrase, f"There is no {noun} here.")


def _det(plural: bool, rng: random.Random) -> str:
    return rng.choice(
        ("the", "the", "the", "the", "the two", "all") if plural else ("the", "the", "the", "the", "that")
    )


def _somewhere(facts: Facts, rng: random.Random) -> str:
    """Mostly nothing; sometimes a place, as one would give it for a thing that is there."""
    if rng.random() > 0.22:
        return ""
    place = rng.choice(("behind", "in front of", "next to", "left of", "right of", "on the left", "on the right",
                        "at the top", "at the bottom", "in the middle", "in the background"))  # fmt: skip
    if place.startswith(("on", "at", "in the")):
        return place
    return f"{place} the {rng.choice(lexicon().outside if rng.random() < 0.4 else [t.kind for t in facts.things])}"


def _other_kind(facts: Facts, rng: random.Random) -> Absence | None:
    words = lexicon()
    kinds = [kind for kind in words.kinds if not facts.named(kind)]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    plural = rng.random() < 0.12
    head = words.plural(words.kind(kind, rng)) if plural else words.kind(kind, rng)
    if rng.random() < 0.45:
        head = f"{words.colour(rng.choice(list(words.colours)), rng)} {head}"
    return Absence(NounPhrase(head, plural=plural, det=_det(plural, rng)), f"There is no {kind} here.")


def _other_colour(facts: Facts, rng: random.Random) -> Absence | None:
    words = lexicon()
    shown = [t for t in facts.things if t.askable]
    if not shown:
        return None
    kind = rng.choice(shown).kind
    members = sorted(facts.named(kind), key=lambda t: (t.x, t.index))
    colours = tuple(dict.fromkeys(t.colour for t in members))
    wrong = [colour for colour in words.colours if colour not in colours]
    if not wrong or not all(t.askable for t in members):
        return None
    colour = rng.choice(wrong)
    subject = f"The {kind} is" if len(members) == 1 else f"The {words.plural(kind)} are"
    phrase = NounPhrase(f"{words.colour(colour, rng)} {words.kind(kind, rng)}")
    return Absence(phrase, f"{subject} {join(colours)}, not {colour}. There is no {colour} {kind}.")


def _no_use(facts: Facts, rng: random.Random) -> Absence | None:
    words = lexicon()
    purposes = [p for p in words.purposes if not any(facts.named(kind) for kind in (*p.kinds, *p.doubtful))]
    if not purposes:
        return None
    purpose = rng.choice(purposes)
    kinds = " and ".join(f"no {kind}" for kind in purpose.kinds)
    return Absence(useful(purpose, 1, rng), f"There is {kinds} here.")


def _no_anchor(facts: Facts, rng: random.Random) -> Absence | None:
    """ "the mug behind the giraffe": what should stand beside it is not there."""
    words = lexicon()
    noun = rng.choice(words.outside)
    kind = rng.choice([t.kind for t in facts.things] or list(words.kinds))
    where = rng.choice(("behind", "in front of", "next to", "to the left of", "to the right of", "on top of"))
    return Absence(NounPhrase(words.kind(kind, rng), post=f"{where} the {noun}"), f"There is no {noun} here.")


_DRAWS: tuple[Callable[[Facts, random.Random], Absence | None], ...] = (
    _outside, _other_kind, _other_colour, _no_use, _no_anchor,
)  # fmt: skip
_WEIGHTS = (40, 22, 24, 8, 6)
