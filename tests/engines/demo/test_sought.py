"""What the reasoning says was understood: true of the prompt, as it means the targets and nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import pytest

from engines.demo.language import Query, ask
from engines.demo.language.facts import observe
from engines.demo.language.lexicon import lexicon
from engines.demo.language.proposals import propose
from engines.demo.language.references import (
    Description,
    Every,
    Group,
    One,
    Placed,
    Ranked,
    Related,
    Several,
    Useful,
)
from engines.demo.language.sought import sought
from engines.demo.scenes import Scene, SceneObject, render_scene
from tests.engines.demo.test_language import MOST, field, holds

SEEDS = range(3_000_000, 3_000_080)
RANKED = re.compile(r"the (?:(?P<most>\w+most|highest|lowest)|(?P<rank>second|third)) (?P<noun>.+)")
RELATED = re.compile(
    r"an? (?P<noun>.+?) (?P<relation>behind|in front of|to the left of|to the right of|above|below|next to) "
    r"(?P<anchor>an? .+)"
)
PLACED = re.compile(r"an? (?P<noun>.+) at the (?P<cell>(?:top|bottom) (?:left|right)|centre)")

MUG, BOX = Group(("mug",)), Group(("box",), "blue")


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (One(Group(("mug",), "red")), "a red mug"),
        (One(Group((), "orange")), "an orange thing"),
        (Every(Group(("apple", "banana"))), "every apple or banana"),
        (Several((One(MUG), One(BOX))), "a mug and a blue box"),
        (Ranked(Group(), "left"), "the leftmost thing"),
        (Ranked(MUG, "top", 1), "the second mug from the top"),
        (Placed(MUG, "bottom left"), "a mug at the bottom left"),
        (Related(Group(), "left of", One(BOX)), "a thing to the left of a blue box"),
        (Useful("drink", ("mug", "bottle", "teapot"), ()), "a mug, bottle or teapot"),
    ],
)
def test_a_description_is_said_in_the_singular_and_by_first_names(
    description: Description, words: str
) -> None:
    assert sought(description) == words


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, Query]]:
    rng = random.Random(12)
    scenes = (render_scene(seed, longest=160) for seed in SEEDS)
    return [(scene, query) for scene in scenes for query in ask(scene, rng, 60)]


def test_what_is_sought_are_the_targets(asked: list[tuple[Scene, Query]]) -> None:
    for scene, query in asked:
        if query.targets:
            targets = [scene.objects[index] for index in query.targets]
            assert meant(told(query), scene.objects, targets), (query.prompt, query.account.wanted)


def test_what_is_not_there_is_nothing_in_the_scene(asked: list[tuple[Scene, Query]]) -> None:
    for scene, query in asked:
        if not query.targets:
            related = re.fullmatch(
                r"an? .+ (?:behind|in front of|next to|left of|right of|on top of) (.+)", told(query)
            )
            noun = related[1] if related else told(query)
            assert not members(re.sub("^an? ", "", noun), scene.objects), query.account.wanted


def test_several_things_are_sought_in_the_order_of_the_prompt() -> None:
    rng = random.Random(2)
    references = (propose("plural", observe(render_scene(seed, longest=160)), rng) for seed in SEEDS)
    several = [each for each in references if each and isinstance(each.description, Several)]
    assert len(several) > 10
    for reference in several:
        assert isinstance(reference.description, Several)
        for part, phrase in zip(reference.description.parts, reference.phrase.parts, strict=True):
            assert any(name in phrase.head for name in lexicon().kinds[part.group.kinds[0]])


def told(query: Query) -> str:
    match = re.fullmatch(r"The (?:complete shape|visible part) of (.+) is wanted\.", query.account.wanted)
    assert match, query.account.wanted
    return match[1]


def meant(text: str, things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    """Whether `text` means the targets and nothing else, by the masks and centres of the scene."""
    if match := RANKED.fullmatch(text):
        return is_ranked(match, things, targets)
    if match := RELATED.fullmatch(text):
        anchors = members(re.sub("^an? ", "", match["anchor"]), things)
        (target,) = targets
        others = target in members(match["noun"], things) and target not in anchors
        return (
            others
            and len(anchors) == 1
            and stands(match["relation"], target, anchors[0], match["noun"], things)
        )
    if match := PLACED.fullmatch(text):
        there = [thing for thing in members(match["noun"], things) if field(thing) == match["cell"]]
        return there == targets
    parts = re.split(r"(?:,| and) (?=an? )", text)
    found = [thing for part in parts for thing in members(re.sub("^(an?|every) ", "", part), things)]
    return sorted(map(id, found)) == sorted(map(id, targets))


def stands(
    relation: str, target: SceneObject, anchor: SceneObject, noun: str, things: Sequence[SceneObject]
) -> bool:
    if relation != "next to":
        return holds(relation, target, anchor, things)
    return holds(relation, target, anchor, [*members(noun, things), anchor])


def is_ranked(match: re.Match[str], things: Sequence[SceneObject], targets: list[SceneObject]) -> bool:
    noun, _, side = match["noun"].partition(" from the ")
    side = side or MOST[match["most"]]
    axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[side]
    order = sorted(members(noun, things), key=lambda thing: sign * thing.centre[axis])
    return [order[{"second": 1, "third": 2}.get(match["rank"] or "", 0)]] == targets


def members(noun: str, things: Sequence[SceneObject]) -> list[SceneObject]:
    """The things that "red mug", "red thing", "thing", or "apple or banana" may mean."""
    *colour, kind = re.split(r" (?=\w+$)", noun) if " or " not in noun else [noun]
    kinds = re.split(", | or ", kind)
    return [
        thing
        for thing in things
        if (kind == "thing" or thing.kind in kinds) and (not colour or thing.colour == colour[0])
    ]
