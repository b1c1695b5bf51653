"""Things that a scene does not show, how people ask for them, and why they are not there."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from engines.demo.language.facts import Facts
from engines.demo.language.lexicon import Purpose, article, join, lexicon
from engines.demo.language.phrases import NounPhrase, places, useful
from engines.demo.language.references import Group
from engines.demo.language.sought import any_of, noun


@dataclass(frozen=True, slots=True)
class Absence:
    """A noun phrase that means nothing in the scene; `sought` says it again, `why` that it is not there."""

    phrase: NounPhrase
    sought: str
    why: str


def absent(facts: Facts, rng: random.Random) -> Absence:
    """Something that is not in the scene."""
    draw = rng.choices(_DRAWS, _WEIGHTS)[0]
    return draw(facts, rng) or _outside(facts, rng)


def _none(name: str) -> str:
    return f"There is no {name} here."


def _outside(facts: Facts, rng: random.Random) -> Absence:
    words = lexicon()
    name = rng.choice(words.outside)
    phrase = _ask_for(name, rng)
    if rng.random() < 0.35:
        phrase = replace(phrase, head=f"{rng.choice((*words.adjectives, *words.colours))} {phrase.head}")
    if rng.random() < 0.4:
        phrase = replace(phrase, post=_somewhere(facts, rng))
    return Absence(phrase, article(name), _none(name))


def _ask_for(noun: str, rng: random.Random) -> NounPhrase:
    if rng.random() < 0.14:
        det = rng.choice(("the", "the", "the two", "all", "both"))
        return NounPhrase(lexicon().plural(noun), det=det, plural=True, bare=not det.startswith("the"))
    return NounPhrase(noun, det=rng.choice(("the",) * 9 + ("that", "this", "my")))


def _somewhere(facts: Facts, rng: random.Random) -> str:
    """A place, as one would give it for a thing that is there."""
    nouns = lexicon().outside if rng.random() < 0.7 else [t.kind for t in facts.things]
    return places().expand("anywhere", rng, {"thing": f"the {rng.choice(nouns)}"})


def _other_kind(facts: Facts, rng: random.Random) -> Absence | None:
    words = lexicon()
    kinds = [kind for kind in words.kinds if not facts.named(kind)]
    if not kinds:
        return None
    kind, colour = rng.choice(kinds), None
    phrase = _ask_for(words.kind(kind, rng), rng)
    if rng.random() < 0.45:
        colour = rng.choice(list(words.colours))
        phrase = replace(phrase, head=f"{words.colour(colour, rng)} {phrase.head}")
    return Absence(phrase, article(noun(Group((kind,), colour))), _none(kind))


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
    others = f"the {kind} is" if len(members) == 1 else f"the {words.plural(kind)} are"
    phrase = NounPhrase(f"{words.colour(colour, rng)} {words.kind(kind, rng)}")
    why = f"There is no {colour} {kind}: {others} {join(colours)}."
    return Absence(phrase, article(noun(Group((kind,), colour))), why)


def _no_use(facts: Facts, rng: random.Random) -> Absence | None:
    words = lexicon()
    purposes = [p for p in words.purposes if not any(facts.named(kind) for kind in (*p.kinds, *p.doubtful))]
    if not purposes:
        return None
    purpose = rng.choice(purposes)
    kinds = " and ".join(f"no {kind}" for kind in purpose.kinds)
    return Absence(useful(purpose, rng), article(any_of(purpose.kinds)), f"There is {kinds} here.")


def _outside_use(facts: Facts, rng: random.Random) -> Absence:
    name, uses = rng.choice(list(lexicon().outside_uses.items()))
    purpose = Purpose(name, (), (), "", tuple(f"one can use to {use}" for use in uses), uses, (), (name,))
    return Absence(useful(purpose, rng), article(name), _none(name))


def _no_anchor(facts: Facts, rng: random.Random) -> Absence:
    """ "the mug behind the giraffe": what should stand beside it is not there."""
    words = lexicon()
    name = rng.choice(words.outside)
    kind = rng.choice([t.kind for t in facts.things] or list(words.kinds))
    where = rng.choice(("behind", "in front of", "next to", "to the left of", "to the right of", "on top of"))
    phrase = NounPhrase(words.kind(kind, rng), post=f"{where} the {name}")
    return Absence(phrase, f"{article(kind)} {where} {article(name)}", _none(name))


_DRAWS: tuple[Callable[[Facts, random.Random], Absence | None], ...] = (
    _outside,
    _other_kind,
    _other_colour,
    _no_use,
    _outside_use,
    _no_anchor,
)
_WEIGHTS = (38, 21, 24, 7, 5, 5)
