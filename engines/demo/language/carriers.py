"""Carriers: the parts of a prompt that say, or do not say, whether the complete shape is wanted."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from engines.demo.language.phrases import NounPhrase
from engines.demo.language.reasoning import MaskType
from engines.demo.language.templates import Bindings, Grammar


@dataclass(frozen=True, slots=True)
class Subject:
    """What a prompt is about, and which words about hiding are true of it."""

    phrase: NounPhrase
    obstacles: tuple[str, ...]  # definite names of what covers it; empty: speak generally
    hidden: bool  # may be called partly hidden
    clear: bool  # may be called fully visible


@dataclass(slots=True)
class Draft:
    """A prompt in the making; each field is empty or holds the words of one marker."""

    head: str = ""  # "the complete shape of" the mug
    tail: str = ""  # the mug's "complete shape"
    adjective: str = ""  # the "whole" mug
    clause: str = ""  # the mug "partly hidden by the box"
    verb: str = ""  # "reconstruct" the mug
    trail: str = ""  # segment the mug, "including what is hidden"
    front: str = ""  # "as if nothing were in front of it", segment the mug
    before: str = ""  # a sentence before the request
    after: str = ""  # a sentence after it
    instead: str = ""  # a sentence of its own instead of the request

    def inside(self) -> tuple[str, ...]:
        """The markers that the request itself has to contain."""
        return tuple(
            t for t in (self.head, self.tail, self.adjective, self.clause, self.verb, self.trail) if t
        )


@dataclass(frozen=True, slots=True)
class Carrier:
    """Expands `rule` into a field of the draft; `weight` is how often it is chosen among its like."""

    field: str
    rule: str
    weight: int
    suits: Callable[[Subject], bool] = lambda subject: True

    def mark(self, draft: Draft, rng: random.Random, bindings: Bindings) -> None:
        setattr(draft, self.field, grammar().expand(self.rule, rng, bindings))


def _takes_adjective(subject: Subject) -> bool:
    return not subject.phrase.bare


def _takes_possessive(subject: Subject) -> bool:
    phrase = subject.phrase
    return not (phrase.bare or phrase.post or phrase.parts or phrase.plural)


def _is_hidden(subject: Subject) -> bool:
    return subject.hidden


def _hidden_adjective(subject: Subject) -> bool:
    return subject.hidden and _takes_adjective(subject)


def _hidden_clause(subject: Subject) -> bool:
    return subject.hidden and not subject.phrase.counted


def _clear_clause(subject: Subject) -> bool:
    return subject.clear and not subject.phrase.counted


def _clear_adjective(subject: Subject) -> bool:
    return subject.clear and _takes_adjective(subject)


_AMODAL = (
    Carrier("adjective", "amodal_pre", 16, _takes_adjective),
    Carrier("head", "amodal_head", 17),
    Carrier("tail", "amodal_tail", 5, _takes_possessive),
    Carrier("trail", "amodal_trail", 27),
    Carrier("front", "amodal_front", 7),
    Carrier("before", "amodal_sentence", 6),
    Carrier("after", "amodal_sentence", 15),
    Carrier("verb", "amodal_verb", 4),
    Carrier("instead", "amodal_question", 5),
    Carrier("instead", "amodal_request", 10),
)
_HIDDEN = (
    Carrier("adjective", "amodal_state_pre", 14, _hidden_adjective),
    Carrier("clause", "amodal_state_post", 14, _hidden_clause),
    Carrier("after", "amodal_state_sentence", 5, _is_hidden),
    Carrier("before", "amodal_state_sentence", 5, _is_hidden),
)
_MODAL = (
    Carrier("head", "modal_head", 26),
    Carrier("tail", "modal_tail", 6, _takes_possessive),
    Carrier("trail", "modal_trail", 32),
    Carrier("front", "modal_front", 9),
    Carrier("before", "modal_sentence", 8),
    Carrier("after", "modal_sentence", 18),
    Carrier("instead", "modal_question", 8),
    Carrier("instead", "modal_request", 12),
)
_CLEAR = (
    Carrier("adjective", "modal_clear_pre", 4, _clear_adjective),
    Carrier("clause", "modal_clear_post", 4, _clear_clause),
)
_TRAP = 0.18  # share of the marked modal prompts that also call a hidden thing hidden


@cache
def grammar() -> Grammar:
    """The grammar of frames and markers, compiled once."""
    return Grammar.load("markers.txt", "frames.txt")


def mark(subject: Subject, mask_type: MaskType, rng: random.Random, bindings: Mapping[str, str]) -> Draft:
    """A draft with its markers. About half the modal drafts have none, for then the visible part is meant."""
    draft = Draft()
    for carrier in _choose(subject, mask_type, rng):
        carrier.mark(draft, rng, bindings)
    return draft


def _choose(subject: Subject, mask_type: MaskType, rng: random.Random) -> list[Carrier]:
    if mask_type == "amodal":
        return _draw((*_AMODAL, *_HIDDEN), subject, rng.choices((1, 2, 3), (62, 30, 8))[0], rng)
    count = rng.choices((0, 1, 2), (48, 40, 12))[0]
    carriers = _draw((*_MODAL, *_CLEAR), subject, count, rng)
    stating = [c for c in _HIDDEN if c.suits(subject)]
    wishes = [c for c in carriers if c in _MODAL]
    if wishes and stating and rng.random() < _TRAP:
        return [rng.choice(stating), *wishes]
    return carriers


def _draw(among: tuple[Carrier, ...], subject: Subject, count: int, rng: random.Random) -> list[Carrier]:
    """`count` carriers or fewer, each for another field."""
    usable = [carrier for carrier in among if carrier.suits(subject)]
    drawn = rng.choices(usable, [carrier.weight for carrier in usable], k=count)
    return list({carrier.field: carrier for carrier in drawn}.values())
