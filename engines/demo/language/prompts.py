"""Prompts: an object phrase, the markers of what is wanted, and sentences around them."""

from __future__ import annotations

import random
import re

from engines.demo.language.carriers import Draft, Subject, grammar, mark
from engines.demo.language.reasoning import MaskType
from engines.demo.language.templates import tidy

_FRAMES = ("imperative", "question", "desire", "passive", "fragment")
_FRAME_WEIGHTS = (43, 17, 15, 12, 13)
_KEYWORDS = 0.06  # share of the prompts that are mere keywords
_ARTICLE = re.compile(r"\b(the|this|that|a|an|is) ")

_SINGULAR = {"it": "it", "its": "its", "is": "is", "they": "it", "all_of": "all of", "all_it": "all of it"}
_PLURAL = {
    "it": "them", "its": "their", "is": "are", "they": "they", "all_of": "the whole of", "all_it": "the whole of them",
}  # fmt: skip
_OBSTACLES = (
    "the thing in front", "the object in front", "whatever is in front", "the obstacle", "the occluder",
    "something else", "another object", "the other object", "the item in front", "what is in front",
    "anything in front", "whatever is in the way", "the thing in the way", "everything else", "any other object",
    "the thing on top", "whatever lies on top", "the thing that lies there",
)  # fmt: skip


def compose(subject: Subject, mask_type: MaskType, rng: random.Random) -> str:
    """One prompt in plain spelling; its sentences may begin in lower case and the last may lack its full stop."""
    named = subject.obstacles and rng.random() < 0.6
    obstacle = rng.choice(subject.obstacles if named else _OBSTACLES)
    bindings = {
        **(_PLURAL if subject.phrase.plural else _SINGULAR),
        "obstacle": obstacle,
        "np": subject.phrase.text(),
    }
    if rng.random() < _KEYWORDS and not subject.phrase.lead:
        return _keywords(subject, mask_type, bindings, rng)
    draft = mark(subject, mask_type, rng, bindings)
    asking = draft.instead or request(draft, subject, bindings, rng)
    return _sentences(draft, subject.phrase.lead, asking, bindings, rng)


def _keywords(subject: Subject, mask_type: MaskType, bindings: dict[str, str], rng: random.Random) -> str:
    """ "segment red mug visible only"."""
    values = {**bindings, "bare": _ARTICLE.sub("", bindings["np"])}
    if mask_type == "modal" and rng.random() < 0.4:
        return grammar().expand("keywords_plain", rng, values)
    values["key"] = grammar().expand(f"{mask_type}_key", rng, bindings)
    return grammar().expand("keywords", rng, values)


def request(draft: Draft, subject: Subject, bindings: dict[str, str], rng: random.Random) -> str:
    """The sentence that asks, with all the markers that belong inside it."""
    words = grammar()
    if not (draft.head or draft.tail or draft.verb) and rng.random() < 0.16:
        return _fill(
            Draft(**_fields(draft, head=words.expand("plain_head", rng, bindings))), subject, bindings, rng
        )
    return _fill(draft, subject, bindings, rng)


def _fields(draft: Draft, **changes: str) -> dict[str, str]:
    return {name: getattr(draft, name) for name in Draft.__slots__} | changes


def _fill(draft: Draft, subject: Subject, bindings: dict[str, str], rng: random.Random) -> str:
    words = grammar()
    phrase = subject.phrase.text(draft.adjective, draft.clause)
    values = {**bindings, "np": phrase, "obj": _object(draft, phrase), "trail": _trailing(draft.trail, rng)}
    values["obj_is"] = "is" if draft.head or draft.tail else bindings["is"]
    values["do_it"] = _do_it(draft, bindings, rng)
    if draft.verb:
        values["verb"] = draft.verb
    frame = "plain_request" if draft.verb else rng.choices(_FRAMES, _FRAME_WEIGHTS)[0]
    text = words.expand(frame, rng, values)
    if not all(marker in text for marker in draft.inside()):
        text = words.expand("plain_request", rng, values)
    return f"{draft.front}{rng.choice((', ', ', ', ', ', ' '))}{text}" if draft.front else text


def _object(draft: Draft, phrase: str) -> str:
    """ "the mask of the mug", "the mug's outline"."""
    if draft.tail:
        return f"the {draft.tail} of {phrase}" if draft.clause else f"{phrase}'s {draft.tail}"
    return f"{draft.head} {phrase}"


def _trailing(trail: str, rng: random.Random) -> str:
    return f"{rng.choice((',', ''))} {trail}" if trail else ""


def _do_it(draft: Draft, bindings: dict[str, str], rng: random.Random) -> str:
    """ "cut it out", "outline all of it", "trace its complete shape"."""
    if draft.head:
        return f"{draft.verb or grammar().expand('verb', rng, bindings)} {draft.head} {bindings['it']}"
    if draft.tail:
        return f"{draft.verb or grammar().expand('verb', rng, bindings)} {bindings['its']} {draft.tail}"
    return f"{draft.verb} {bindings['it']}" if draft.verb else grammar().expand("verb_it", rng, bindings)


def _sentences(draft: Draft, lead: str, asking: str, bindings: dict[str, str], rng: random.Random) -> str:
    opening = grammar().expand("opening", rng, bindings) if rng.random() < 0.15 else ""
    closing = grammar().expand("closing", rng, bindings) if rng.random() < 0.17 else ""
    sentences = [opening, lead, draft.before, asking, draft.after, closing]
    if opening and rng.random() < 0.12:
        sentences.insert(0, grammar().expand("opening", rng, bindings))
    joint = rng.choice((". ", ". ", ". ", ". ", ". ", "; ", ", ", " - "))
    text = ""
    for sentence in (s for s in sentences if s):
        text += sentence if not text else (" " if text.endswith(("?", ".")) else joint) + sentence
    return tidy(text)
