"""The figures of a whole run against a plain computation on sets of pixels, from random answers to random truths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engines.evaluation.metrics import Mask
from engines.evaluation.outcomes import Answer, Outcome, failure, score
from engines.evaluation.questions import Question
from engines.evaluation.report import Report, summarise
from engines.events import MaskType
from engines.vision.masks import encode

SHAPE = (3, 4)
TYPES: tuple[MaskType, MaskType] = ("modal", "amodal")
Pixels = set[tuple[int, int]]
types = st.sampled_from(TYPES)
masks = arrays(np.bool_, SHAPE)
shapes = st.tuples(masks.filter(np.any), masks).map(lambda pair: (pair[0] & pair[1], pair[0]))
answers = st.none() | st.tuples(types, st.lists(st.tuples(masks, masks), max_size=2))
cases = st.lists(
    st.tuples(types, st.lists(shapes, max_size=2), st.none() | masks, answers), min_size=1, max_size=5
)
Case = tuple[
    MaskType,
    list[tuple[Mask, Mask]],
    Mask | None,
    tuple[MaskType, list[tuple[Mask, Mask]]] | None,
]


def judged(label: str, case: Case) -> Outcome:
    """What the evaluation makes of a case: objects and answers are pairs of a modal and an amodal mask."""
    wanted, objects, ignored, answer = case
    hidden = np.logical_or.reduce([whole & ~seen for seen, whole in objects] or [np.zeros(SHAPE, np.bool_)])
    truths = tuple(pair[TYPES.index(wanted)] for pair in objects)
    asked = Question(
        label, b"", SHAPE, "x", wanted, truths, (), "form", label, hidden=hidden, ignored=ignored
    )
    if answer is None:
        return failure(asked, "busy")
    decided, found = answer
    codes = {kind: [encode(pair[place]).rle for pair in found] for place, kind in enumerate(TYPES)}
    return score(asked, Answer(decided, "", codes, confidence=0.8), 1.0)


def pixels(parts: Sequence[Mask], ignored: Mask | None) -> Pixels:
    """All pixels of some masks that count."""
    everywhere = itertools.product(range(SHAPE[0]), range(SHAPE[1]))
    return {
        at
        for at in everywhere
        if any(part[at] for part in parts) and not (ignored is not None and ignored[at])
    }


def pair_of(case: Case) -> tuple[int, int]:
    """Shared and united pixels of a case's fused masks; a failed query has none shared and one at least to miss."""
    wanted, objects, ignored, answer = case
    truth = pixels([pair[TYPES.index(wanted)] for pair in objects], ignored)
    if answer is None:
        return 0, max(len(truth), 1)
    found = pixels([pair[TYPES.index(wanted)] for pair in answer[1]], ignored)
    return len(truth & found), len(truth | found)


def iou(pair: tuple[int, int]) -> float:
    return pair[0] / pair[1] if pair[1] else 1.0


def average(values: Sequence[float]) -> object:
    """The mean, as a figure of the report must be."""
    return pytest.approx(sum(values) / len(values)) if values else None


def hidden(case: Case) -> float:
    """The IoU of what is hidden of all objects together; 0 without masks."""
    _, objects, ignored, answer = case
    if answer is None or not answer[1]:
        return 0.0
    truth, found = (
        set().union(*(pixels([whole & ~seen], ignored) for seen, whole in pairs))
        for pairs in (objects, answer[1])
    )
    return iou((len(truth & found), len(truth | found)))


def box(case: Case) -> float:
    """Whether the only object's box and the answer's share half of what they cover, pixel by pixel."""
    wanted, objects, ignored, answer = case
    sides = []
    for pairs in (objects, answer[1] if answer else []):
        inside = pixels([pair[TYPES.index(wanted)] for pair in pairs], ignored)
        ys, xs = ([at[axis] for at in inside] or [0] for axis in (0, 1))
        around = itertools.product(range(min(ys), max(ys) + 1), range(min(xs), max(xs) + 1))
        sides.append(set(around) if inside else set())
    return float(answer is not None and iou((len(sides[0] & sides[1]), len(sides[0] | sides[1]))) >= 0.5)


def run(made: list[Case]) -> Report:
    return summarise([judged(str(place), case) for place, case in enumerate(made)], both=True)


@given(cases)
def test_masks_of_a_run(made: list[Case]) -> None:
    report = run(made)
    for name in ("all", *TYPES):
        chosen = [pair_of(case) for case in made if name == "all" or (case[0] == name and case[1])]
        assert getattr(report.giou, name) == average([iou(pair) for pair in chosen])
        union = sum(pair[1] for pair in chosen)
        shared = sum(pair[0] for pair in chosen)
        assert getattr(report.ciou, name) == (pytest.approx(shared / union) if union else None)


@given(cases)
def test_decisions_of_a_run(made: list[Case]) -> None:
    report = run(made)
    answered = [case for case in made if case[3] is not None]
    decided = [float(case[3] is not None and case[3][0] == case[0]) for case in made]
    assert report.decision_accuracy == (average(decided) if answered else None)
    absent = [case for case in made if not case[1]]
    assert report.no_object_accuracy == average(
        [float(case[3] is not None and not case[3][1]) for case in absent]
    )
    there = [case for case in made if case[1]]
    assert report.object_accuracy == average(
        [float(case[3] is not None and bool(case[3][1])) for case in there]
    )
    right = sum(case[3] is not None and case[3][0] == case[0] for case in made)
    assert report.ece == (pytest.approx(abs(right / len(answered) - 0.8)) if answered else None)
    assert report.failed == len(made) - len(answered)


@given(cases)
def test_hidden_parts_and_boxes_of_a_run(made: list[Case]) -> None:
    report = run(made)
    occluded = [case for case in made if any((whole & ~seen).any() for seen, whole in case[1])]
    assert report.hidden_iou == average([hidden(case) for case in occluded])
    assert report.box_accuracy == average([box(case) for case in made if len(case[1]) == 1])
