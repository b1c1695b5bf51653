"""Prompts: an object phrase, markers of what is wanted, and a frame of sentences around them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from engines.demo.language.phrases import NounPhrase
from engines.demo.language.reasoning import MaskType
from engines.demo.language.templates import Bindings, Grammar, tidy

FRAMES = ("imperative", "question", "desire", "passive", "fragment")
_FRAME_WEIGHTS = (45, 17, 15, 8, 15)

_SINGULAR = {"it": "it", "its": "its", "is": "is"}
_PLURAL = {"it": "them", "its": "their", "is": "are"}
_OBSTACLES = (
    "the thing in front", "the object in front", "whatever is in front", "the obstacle", "the occluder",
    "something else", "another object", "the other object", "the item in front", "what is in front", "any other object",
    "anything in front", "whatever is in the way", "the thing in the way", "everything else",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subject:
    """What the prompt is about, and which words about hiding are true of it."""

    phrase: NounPhrase
    obstacles: tuple[str, ...]  # definite names of what covers it; empty: speak generally
    hidden: bool  # may be called partly hidden


@cache
def grammar() -> Grammar:
    """The grammar of frames and markers, compiled once."""
    return Grammar.load("markers.txt", "frames.txt")


@dataclass(slots=True)
class _Draft:
    """A prompt in the making: every carrier of a marker fills one of these."""

    head: str = ""
    adjective: str = ""
    clause: str = ""
    trail: str = ""
    front: str = ""
    before: str = ""
    after: str = ""
    verb: str = ""


def compose(subject: Subject, mask_type: MaskType, rng: random.Random) -> str:
    """One prompt, in lower case but for names, with punctuation between its sentences."""
    frame = rng.choices(FRAMES, _FRAME_WEIGHTS)[0]
    bindings = _bindings(subject, rng)
    draft = _Draft()
    for carrier in _carriers(subject, mask_type, rng):
        carrier(draft, subject, bindings, rng)
    return _sentences(draft, subject, frame, bindings, rng)


def _bindings(subject: Subject, rng: random.Random) -> dict[str, str]:
    numbers = _PLURAL if _is_plural(subject) else _SINGULAR
    named = subject.obstacles and rng.random() < 0.6
    return {**numbers, "obstacle": rng.choice(subject.obstacles if named else _OBSTACLES)}


def _is_plural(subject: Subject) -> bool:
    return subject.phrase.plural


_Carrier = Callable[[_Draft, Subject, Bindings, random.Random], None]


def _carriers(subject: Subject, mask_type: MaskType, rng: random.Random) -> list[_Carrier]:
    """Which parts of the prompt say what is wanted. Modal prompts mostly say nothing."""
    if mask_type == "modal":
        count = rng.choices((0, 1, 2), (50, 40, 10))[0]
        names = rng.choices(list(_MODAL), [weight for weight, _ in _MODAL.values()], k=count)
        return [_MODAL[name][1] for name in dict.fromkeys(names)] + _trap(subject, names, rng)
    count = rng.choices((1, 2, 3), (72, 23, 5))[0]
    usable = {name: pair for name, pair in _AMODAL.items() if subject.hidden or not name.startswith("state")}
    names = rng.choices(list(usable), [weight for weight, _ in usable.values()], k=count)
    return [usable[name][1] for name in dict.fromkeys(names)]


def _trap(subject: Subject, names: list[str], rng: random.Random) -> list[_Carrier]:
    """ "the visible part of the half-hidden mug" asks for the visible part all the same."""
    if names and subject.hidden and rng.random() < 0.15:
        return [_AMODAL[rng.choice(("state_pre", "state_post"))][1]]
    return []


def _fill(field: str, rule: str) -> _Carrier:
    def carrier(draft: _Draft, subject: Subject, bindings: Bindings, rng: random.Random) -> None:
        setattr(draft, field, grammar().expand(rule, rng, bindings))

    return carrier


def _adjective(rule: str, instead: str) -> _Carrier:
    """An adjective before the noun; a phrase that takes none gets a head before it or a clause after it."""

    def carrier(draft: _Draft, subject: Subject, bindings: Bindings, rng: random.Random) -> None:
        field = "adjective" if not subject.phrase.bare else instead
        rule_here = (
            rule if field == "adjective" else {"head": "amodal_head", "clause": "amodal_state_post"}[instead]
        )
        setattr(draft, field, grammar().expand(rule_here, rng, bindings))

    return carrier


_AMODAL: dict[str, tuple[int, _Carrier]] = {
    "pre": (16, _adjective("amodal_pre", "head")),
    "head": (18, _fill("head", "amodal_head")),
    "trail": (26, _fill("trail", "amodal_trail")),
    "front": (7, _fill("front", "amodal_front")),
    "before": (6, _fill("before", "amodal_sentence")),
    "after": (15, _fill("after", "amodal_sentence")),
    "verb": (4, _fill("verb", "amodal_verb")),
    "state_pre": (12, _adjective("amodal_state_pre", "clause")),
    "state_post": (14, _fill("clause", "amodal_state_post")),
}
_MODAL: dict[str, tuple[int, _Carrier]] = {
    "head": (28, _fill("head", "modal_head")),
    "trail": (34, _fill("trail", "modal_trail")),
    "front": (9, _fill("front", "modal_front")),
    "before": (9, _fill("before", "modal_sentence")),
    "after": (20, _fill("after", "modal_sentence")),
}


def _sentences(draft: _Draft, subject: Subject, frame: str, bindings: Bindings, rng: random.Random) -> str:
    phrase, words = subject.phrase, grammar()
    if draft.verb:
        frame = "imperative"
    plain = phrase.text()
    marked = phrase.text(draft.adjective, draft.clause)
    head = draft.head or (
        words.expand("plain_head", rng, bindings) if rng.random() < 0.14 and not draft.verb else ""
    )
    trail = draft.trail and ("," if rng.random() < 0.55 else "") + " " + draft.trail
    named = tidy(f"{head} {marked}")
    values = {**bindings, "np": plain if draft.head else marked, "obj": named, "trail": trail}
    if draft.verb:
        values["verb"] = draft.verb
    main = words.expand(frame, rng, values)
    needed = [named] if draft.head else [marked]
    needed += [text for text in (draft.trail, draft.verb) if text]
    if not all(text in main for text in needed):
        main = words.expand("plain_request", rng, values)
    if draft.front:
        main = f"{draft.front}, {main}" if rng.random() < 0.8 else f"{draft.front} {main}"
    opening = words.expand("opening", rng, bindings) if rng.random() < 0.14 else ""
    closing = words.expand("closing", rng, bindings) if rng.random() < 0.16 else ""
    lead = phrase.lead
    return _join([opening, lead, draft.before, main, draft.after, closing], rng)


def _join(sentences: list[str], rng: random.Random) -> str:
    present = [s for s in sentences if s]
    joint = rng.choice((". ", ". ", ". ", ". ", "; ", ", ", " - "))
    text = present[0]
    for sentence in present[1:]:
        text += " " + sentence if text.endswith(("?", ".")) else joint + sentence
    return text
