"""Exercises in looking: a question about a whole scene, and the true account that answers it.

They are no requests for masks. The trainer mixes them among the queries, because an account of a whole scene
teaches a model to find things and to see what covers what with far fewer words than queries need for it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from engines.demo.language.facts import COVERED, Facts, Scene, in_reading_order, observe
from engines.demo.language.lexicon import join
from engines.demo.language.reasoning import covering, placed

COVERINGS = "What covers what?"


@dataclass(frozen=True, slots=True)
class Survey:
    """A question about a scene and the account that is true of it."""

    question: str
    account: str


def survey(scene: Scene, rng: random.Random) -> Survey:
    """One exercise on a scene; the same scene and generator state give the same one."""
    facts = observe(scene)
    return _where(facts, rng) if rng.random() < 0.5 else _coverings(facts)


def _where(facts: Facts, rng: random.Random) -> Survey:
    things = rng.sample(facts.things, len(facts.things))
    names = join([f"the {thing.name}" for thing in things])
    return Survey(f"Where: {names}?", " ".join(placed(thing) for thing in things))


def _coverings(facts: Facts) -> Survey:
    covered = [
        thing for thing in in_reading_order(facts.things) if thing.hidden >= COVERED and thing.coverers
    ]
    sentences = [covering(thing, f"the {thing.name}", facts) for thing in covered]
    return Survey(COVERINGS, " ".join(sentences) or "Nothing covers them.")
