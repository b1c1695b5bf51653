"""Surveys are true of their scenes."""

from __future__ import annotations

import random
import re

from engines.demo.language import survey
from engines.demo.language.facts import COVERED, observe
from engines.demo.language.survey import COVERINGS
from engines.demo.scenes import render_scene


def test_accounts_are_true_and_cover_the_whole_scene() -> None:
    asked = set()
    for seed in range(40):
        scene = render_scene(2_000_000 + seed, longest=160)
        things = {thing.name: thing for thing in observe(scene).things}
        exercise = survey(scene, random.Random(seed))
        sentences = exercise.account.removesuffix(".").split(". ")
        if exercise.question == COVERINGS:
            asked.add("coverings")
            covered = {name for sentence in sentences for name in re.findall(r"part of the (.+)", sentence)}
            assert covered == {t.name for t in things.values() if t.hidden >= COVERED and t.coverers}
            continue
        asked.add("where")
        places = dict(sentence.removeprefix("The ").split(" is at the ") for sentence in sentences)
        assert places == {name: thing.cell for name, thing in things.items()}
        assert all(name in exercise.question for name in places)
    assert asked == {"coverings", "where"}


def test_a_generator_state_gives_the_same_survey() -> None:
    scene = render_scene(2_000_003, longest=160)
    assert survey(scene, random.Random(5)) == survey(scene, random.Random(5))
