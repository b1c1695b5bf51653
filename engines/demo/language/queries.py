"""Queries: prompts about a scene with their true answers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engines.demo.language.absences import absent
from engines.demo.language.carriers import Subject
from engines.demo.language.facts import COVERED, Facts, Scene, Thing, observe
from engines.demo.language.lexicon import lexicon
from engines.demo.language.phrases import name_of
from engines.demo.language.prompts import compose
from engines.demo.language.proposals import Form, Reference, propose
from engines.demo.language.reasoning import Account, MaskType, account, missing
from engines.demo.language.surface import dress

FORMS: tuple[Form, ...] = ("attribute", "position", "relation", "function", "plural", "absent")
_WEIGHTS = (26, 17, 18, 15, 13, 11)

HIDDEN = 0.06  # from this covered share on a prompt may call a thing partly hidden
CLEAR = 0.005  # up to this one, fully visible


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt and its answer. `targets` index the scene's objects, in reading order; empty: no such object."""

    prompt: str
    mask_type: MaskType
    targets: tuple[int, ...]
    account: Account
    form: Form

    @property
    def reasoning(self) -> str:
        return self.account.text


def ask(scene: Scene, rng: random.Random, count: int) -> list[Query]:
    """`count` queries about a scene; the same scene and generator state give the same queries."""
    facts = observe(scene)
    return [_query(facts, rng) for _ in range(count)]


def corpus(scenes: Iterable[Scene], rng: random.Random, each: int = 8) -> Iterator[str]:
    """Prompts and reasoning texts, in turn, as text to train a tokenizer on."""
    for scene in scenes:
        for query in ask(scene, rng, each):
            yield query.prompt
            yield query.reasoning


def _query(facts: Facts, rng: random.Random) -> Query:
    mask_type: MaskType = "amodal" if rng.random() < 0.5 else "modal"
    form = rng.choices(FORMS, _WEIGHTS)[0]
    reference = propose(form, facts, rng) if form != "absent" else None
    if reference is None and form != "absent":
        reference = propose("attribute", facts, rng)
    if reference is None:
        return _absent_query(facts, mask_type, rng)
    targets = tuple(facts.things[index] for index in reference.targets)
    prompt = compose(_subject(reference, targets, facts, rng), mask_type, rng)
    told = account(reference.description, targets, facts, mask_type)
    return Query(dress(prompt, rng), mask_type, reference.targets, told, reference.form)


def _absent_query(facts: Facts, mask_type: MaskType, rng: random.Random) -> Query:
    absence = absent(facts, rng)
    subject = Subject(absence.phrase, _anything(facts, rng), hidden=True, clear=True)
    prompt = compose(subject, mask_type, rng)
    return Query(dress(prompt, rng), mask_type, (), missing(absence, facts, mask_type), "absent")


def _subject(reference: Reference, targets: tuple[Thing, ...], facts: Facts, rng: random.Random) -> Subject:
    coverers = [facts.things[i] for t in targets for i, share in t.coverers if share >= COVERED]
    names = [name for t in coverers if t not in targets and (name := name_of(t, facts, rng))]
    hidden = all(t.hidden >= HIDDEN for t in targets)
    clear = all(t.hidden <= CLEAR for t in targets)
    return Subject(reference.phrase, tuple(names) if len(targets) == 1 else (), hidden, clear)


def _anything(facts: Facts, rng: random.Random) -> tuple[str, ...]:
    """Something that a thing which is not there might be hidden by: from the scene, or from elsewhere."""
    name = name_of(rng.choice(facts.things), facts, rng) if facts.things and rng.random() < 0.4 else None
    return (name or f"the {rng.choice(lexicon().outside)}",)
