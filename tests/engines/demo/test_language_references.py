"""The resolver: what a description means, and when it is not clear enough to mean anything."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.demo.language.facts import Facts, Thing
from engines.demo.language.phrases import word
from engines.demo.language.proposals import Form, Reference, propose
from engines.demo.language.references import (
    MARGIN,
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
    resolve,
)
from engines.demo.scenes import COLOURS, KINDS

FORMS: tuple[Form, ...] = ("attribute", "position", "relation", "function", "plural")


def thing(
    index: int,
    name: str,
    x: float,
    y: float,
    *covered: tuple[int, float],
    askable: bool = True,
    beneath: frozenset[int] = frozenset(),
) -> Thing:
    colour, kind = name.split()
    hidden = sum(share for _, share in covered)
    return Thing(index, kind, colour, x, y, x, y, "a1", hidden, covered, beneath, askable)


MUGS = Facts(
    (
        thing(0, "red mug", 0.2, 0.2, (2, 0.3)),
        thing(1, "green mug", 0.8, 0.5),
        thing(2, "blue box", 0.3, 0.3),
        thing(3, "red ball", 0.5, 0.85),
        thing(4, "black key", 0.55, 0.55, askable=False),
    )
)


@pytest.mark.parametrize(
    ("description", "targets"),
    [
        (One(Group(("mug",))), None),
        (One(Group(("mug",), "red")), (0,)),
        (One(Group((), "red")), None),
        (One(Group((), "green")), (1,)),
        (One(Group(("key",))), None),  # there, but hardly to be seen
        (One(Group(("hat",))), None),
        (Every(Group(("mug",))), (0, 1)),
        (Every(Group(("box",))), None),
        (Every(Group((), "red")), (0, 3)),
        (Several((One(Group(("ball",))), One(Group(("box",))))), (2, 3)),
        (Several((One(Group(("ball",))), One(Group((), "red")))), None),
        (Several((One(Group(("ball",))), One(Group(("ball",), "red")))), None),
        (Ranked(Group(("mug",)), "left"), (0,)),
        (Ranked(Group(("mug",)), "right"), (1,)),
        (Ranked(Group(("mug",)), "left", 1), (1,)),
        (Ranked(Group(("mug",)), "left", 2), None),
        (Ranked(Group(), "bottom"), (3,)),
        (Ranked(Group(), "top", 1), (2,)),
        (Ranked(Group(), "left", 2), None),  # the ball and the key are nearly level
        (Ranked(Group(("ball",)), "left"), None),
        (Placed(Group(("mug",)), "top left"), (0,)),
        (Placed(Group(), "top left"), None),
        (Placed(Group(("mug",)), "centre"), None),
        (Related(Group(), "behind", One(Group(("box",)))), (0,)),
        (Related(Group(("mug",)), "behind", One(Group(("box",)))), (0,)),
        (Related(Group(("ball",)), "behind", One(Group(("box",)))), None),
        (Related(Group(), "in front of", One(Group(("mug",), "red"))), (2,)),
        (Related(Group(), "in front of", One(Group(("mug",)))), None),
        (Related(Group(("mug",)), "left of", One(Group(("ball",)))), None),  # much more above than left
        (Related(Group(("mug",)), "right of", One(Group(("box",)))), (1,)),
        (Related(Group(("mug",)), "next to", One(Group(("box",)))), (0,)),
        (Related(Group(), "next to", One(Group(("key",)))), None),
        (Useful("drink", ("mug",), ("bottle",)), (0, 1)),
        (Useful("play", ("ball",), ("box",)), None),
    ],
)
def test_descriptions_mean_what_they_say(description: One, targets: tuple[int, ...] | None) -> None:
    assert resolve(description, MUGS) == targets


def test_what_stands_before_a_hair_of_it_may_be_meant_too() -> None:
    box, mug = thing(1, "blue box", 0.4, 0.4), thing(0, "red mug", 0.3, 0.3, (1, 0.3))
    behind = Related(Group(), "behind", One(Group(("box",))))
    assert resolve(behind, Facts((mug, box))) == (0,)
    hat = thing(2, "black hat", 0.5, 0.5, beneath=frozenset({1}))
    assert resolve(behind, Facts((mug, box, hat))) is None


def test_beside_is_said_only_where_nothing_else_is() -> None:
    box, mug, far = (
        thing(0, "blue box", 0.2, 0.5),
        thing(1, "red mug", 0.3, 0.5),
        thing(2, "black hat", 0.9, 0.5),
    )
    near = thing(2, "black hat", 0.4, 0.5)
    beside = Related(Group(), "next to", One(Group(("box",))))
    assert resolve(beside, Facts((box, mug, far))) == resolve(beside, Facts((box, mug, near))) == (1,)
    alone = {word(beside, Facts((box, mug, far)), random.Random(seed)).text() for seed in range(60)}
    rivalled = {word(beside, Facts((box, mug, near)), random.Random(seed)).text() for seed in range(60)}
    assert any("beside" in words for words in alone)
    assert all("closest to" in words or "nearest to" in words for words in rivalled)


def test_more_than_three_targets_are_too_many() -> None:
    facts = Facts(tuple(thing(i, "red mug", 0.2 * i, 0.5) for i in range(4)))
    assert resolve(Every(Group(("mug",))), facts) is None


def test_a_rival_near_the_rim_of_a_corner_makes_it_unclear() -> None:
    corner = Placed(Group(("mug",)), "top left")
    first = thing(0, "red mug", 0.2, 0.2)
    assert resolve(corner, Facts((first, thing(1, "green mug", 0.45, 0.2)))) == (0,)
    assert resolve(corner, Facts((first, thing(1, "green mug", 0.35, 0.2)))) is None
    assert resolve(corner, Facts((thing(0, "red mug", 0.32, 0.2),))) is None


coordinate = st.floats(0.02, 0.98)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    count = draw(st.integers(2, 7))
    things = []
    for index in range(count):
        name = f"{draw(st.sampled_from(COLOURS[:4]))} {draw(st.sampled_from(KINDS))}"
        above = draw(st.sets(st.integers(index + 1, count - 1), max_size=2)) if index + 1 < count else set()
        covered = tuple((other, draw(st.floats(0.01, 0.3))) for other in sorted(above))
        things.append(
            thing(index, name, draw(coordinate), draw(coordinate), *covered, askable=draw(st.booleans()))
        )
    return Facts(tuple(things))


@settings(max_examples=300, deadline=None)
@given(facts(), st.sampled_from(FORMS), st.integers(0, 1_000_000))
def test_a_twin_of_the_target_makes_every_description_of_it_unclear(
    facts: Facts, form: Form, seed: int
) -> None:
    """Uniqueness: were there a second thing just like the target, the description would not resolve to it."""
    reference = propose(form, facts, random.Random(seed))
    if reference is None or isinstance(reference.description, Every | Useful):
        return
    for target in reference.targets:
        twin = replace(facts.things[target], index=len(facts.things))
        assert resolve(reference.description, Facts((*with_twin(facts, target), twin))) is None


def with_twin(facts: Facts, target: int) -> tuple[Thing, ...]:
    """The things, covered by the target's twin wherever the target covers them."""
    twin = len(facts.things)
    return tuple(
        replace(t, coverers=(*t.coverers, *((twin, share) for index, share in t.coverers if index == target)))
        for t in facts.things
    )


@settings(max_examples=300, deadline=None)
@given(facts(), st.sampled_from(FORMS), st.integers(0, 1_000_000))
def test_proposals_resolve_and_ask_for_things_that_show(facts: Facts, form: Form, seed: int) -> None:
    reference = propose(form, facts, random.Random(seed))
    if reference is None:
        return
    assert isinstance(reference, Reference)
    assert resolve(reference.description, facts) == reference.targets
    assert reference.form == form
    assert all(facts.things[index].askable for index in reference.targets)
    assert 1 <= len(reference.targets) <= 3
    several = reference.phrase.plural or reference.phrase.det in ("every", "each")
    assert several == (len(reference.targets) > 1)


@settings(max_examples=200, deadline=None)
@given(facts(), st.sampled_from(["left", "right", "top", "bottom"]))
def test_the_first_from_a_side_is_first_by_a_clear_margin(facts: Facts, side: Side) -> None:
    targets = resolve(Ranked(Group(), side), facts)
    if targets is None:
        return
    first = facts.things[targets[0]]
    places: dict[Side, Callable[[Thing], float]] = {
        "left": lambda t: t.x,
        "right": lambda t: -t.x,
        "top": lambda t: t.y,
        "bottom": lambda t: -t.y,
    }
    place = places[side]
    assert all(place(t) - place(first) >= MARGIN - 1e-9 for t in facts.things if t is not first)


@settings(max_examples=200, deadline=None)
@given(facts(), st.sampled_from(["left of", "right of", "above", "below"]), st.sampled_from(KINDS))
def test_nothing_else_stands_on_that_side_of_the_anchor(facts: Facts, relation: Relation, kind: str) -> None:
    targets = resolve(Related(Group(), relation, One(Group((kind,)))), facts)
    if targets is None:
        return
    (anchor,) = [t for t in facts.things if t.kind == kind]
    aheads: dict[Relation, Callable[[Thing], float]] = {
        "left of": lambda t: anchor.u - t.u,
        "right of": lambda t: t.u - anchor.u,
        "above": lambda t: anchor.v - t.v,
        "below": lambda t: t.v - anchor.v,
    }
    ahead = aheads[relation]
    assert ahead(facts.things[targets[0]]) >= 0.1
    assert all(ahead(t) <= 0.02 for t in facts.things if t.index not in (*targets, anchor.index))
