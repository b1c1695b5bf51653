"""Asking, scoring and summing up: servers here are coroutines that know the truth, or spoil it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import pytest

from engines.errors import InvalidInput
from engines.evaluation.outcomes import Answer, Outcome, QueryFailed, Question, failure, score
from engines.evaluation.report import as_table, summarise
from engines.evaluation.runner import evaluate
from engines.events import MaskType
from engines.vision.masks import encode

SHAPE = (6, 8)


def half(left: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The left or the right half of the picture."""
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[:, :4] = True
    return mask if left else ~mask


def question(label: str = "1.0", mask_type: MaskType = "modal", targets: int = 1) -> Question:
    """A question about up to two halves."""
    truths = (half(True), half(False))[:targets]
    names = ("red mug", "blue box")[:targets]
    form = "attribute" if targets else "absent"
    return Question(label, b"png", SHAPE, "the mug", mask_type, truths, names, form)


def truth_of(asked: Question) -> Answer:
    """The right answer."""
    masks = [encode(truth).rle for truth in asked.truths]
    return Answer(
        asked.mask_type, f"The {' and the '.join(asked.names)}.", {asked.mask_type: masks}, {"total": 10.0}
    )


class Halves:
    """A set of questions without pictures: seed 0 has no target, odd seeds ask for amodal masks."""

    def scenes(self) -> range:
        """Eight seeds."""
        return range(8)

    def questions(self, seed: int) -> Iterator[Question]:
        """One question a seed."""
        yield question(f"{seed}.0", "amodal" if seed % 2 else "modal", targets=min(seed, 2))


def test_a_right_answer_scores_full_marks() -> None:
    outcome = score(question(targets=2), truth_of(question(targets=2)), 12.0)
    assert (outcome.decided_right, outcome.named, outcome.masks) == (True, True, 2)
    assert (outcome.overlap.iou, outcome.instance_iou, outcome.latency_ms) == (1.0, 1.0, 12.0)


def test_the_fused_union_may_fit_where_the_instances_do_not() -> None:
    whole = encode(np.ones(SHAPE, dtype=np.bool_)).rle
    outcome = score(question(targets=2), Answer("modal", "", {"modal": [whole]}), 1.0)
    assert outcome.overlap.iou == 1.0
    assert outcome.instance_iou == 0.25  # one half of the whole for one target, nothing for the other


def test_with_both_masks_the_type_that_the_prompt_asks_for_counts() -> None:
    masks: dict[MaskType, list[object]] = {
        "modal": [encode(half(True)).rle],
        "amodal": [encode(half(False)).rle],
    }
    outcome = score(question(mask_type="modal"), Answer("amodal", "", masks), 1.0)  # type: ignore[arg-type]
    assert outcome.overlap.iou == 1.0
    assert not outcome.decided_right


def test_a_wrong_decision_is_scored_with_the_mask_that_came() -> None:
    outcome = score(
        question(mask_type="modal"), Answer("amodal", "", {"amodal": [encode(half(True)).rle]}), 1.0
    )
    assert (outcome.decided_right, outcome.overlap.iou) == (False, 1.0)


@pytest.mark.parametrize(
    ("reasoning", "named"),
    [
        ("The red mug, then the blue box.", True),
        ("The red mug.", False),
        ("The blue mug and the red box.", False),
    ],
)
def test_the_reasoning_must_name_every_target(reasoning: str, named: bool) -> None:
    assert score(question(targets=2), Answer("modal", reasoning, {}), 1.0).named is named


def test_no_object_is_right_only_without_a_mask() -> None:
    none = score(question(targets=0), Answer("modal", "", {}), 1.0)
    some = score(question(targets=0), Answer("modal", "", {"modal": [encode(half(True)).rle]}), 1.0)
    assert (none.answered_none, none.overlap.iou) == (True, 1.0)
    assert (some.answered_none, some.overlap.iou) == (False, 0.0)


def test_a_mask_of_another_size_is_a_failure() -> None:
    other = encode(np.ones((3, 3), dtype=np.bool_)).rle
    with pytest.raises(QueryFailed, match=r"a mask is \(3, 3\)"):
        score(question(), Answer("modal", "", {"modal": [other]}), 1.0)


async def test_outcomes_come_in_the_order_of_the_set_and_a_bounded_number_at_once() -> None:
    busy, most = 0, 0

    async def segment(asked: Question) -> Answer:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.02 if asked.label == "0.0" else 0.001)
        busy -= 1
        return truth_of(asked)

    seen: list[Outcome] = []
    outcomes = await evaluate(Halves(), segment, concurrency=3, on_outcome=seen.append)
    assert [outcome.label for outcome in outcomes] == [f"{seed}.0" for seed in range(8)]
    assert most == 3
    assert {outcome.label for outcome in seen} == {outcome.label for outcome in outcomes}
    report = summarise(outcomes)
    assert (report.decision_accuracy, report.no_object_accuracy, report.object_accuracy) == (1.0, 1.0, 1.0)
    assert (report.giou.all, report.giou.modal, report.giou.amodal, report.ciou.all) == (1.0, 1.0, 1.0, 1.0)
    assert (report.reasoning_accuracy, report.instance_iou, report.failed) == (1.0, 1.0, 0)
    assert report.stages_ms == {"total": 10.0}


async def test_failures_are_counted_as_wrong_and_told() -> None:
    async def segment(asked: Question) -> Answer:
        if asked.label in ("0.0", "1.0"):
            raise QueryFailed("503: busy")
        return truth_of(asked)

    report = summarise(await evaluate(Halves(), segment))
    assert (report.queries, report.failed) == (8, 2)
    assert report.decision_accuracy == pytest.approx(6 / 8)
    assert report.giou.all == pytest.approx(6 / 8)
    assert report.no_object_accuracy == 0.0
    assert report.reasoning_accuracy == pytest.approx(6 / 7)
    assert report.errors == ["0.0: 503: busy", "1.0: 503: busy"]
    assert "failed: 0.0: 503: busy" in as_table(report)


async def test_a_surprise_is_no_outcome() -> None:
    async def segment(_: Question) -> Answer:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await evaluate(Halves(), segment)
    assert caught.group_contains(ZeroDivisionError)


async def test_at_least_one_question_must_be_asked_at_once() -> None:
    with pytest.raises(InvalidInput):
        await evaluate(Halves(), lambda _: asyncio.sleep(0, Answer("modal", "", {})), concurrency=0)


def test_the_report_splits_by_type_and_form_and_has_no_figure_from_nothing() -> None:
    wrong = score(
        question(mask_type="amodal"), Answer("modal", "", {"modal": [encode(half(False)).rle]}), 30.0
    )
    right = score(question(), truth_of(question()), 10.0)
    none = score(question(targets=0), truth_of(question(targets=0)), 20.0)
    report = summarise([wrong, right, none])
    assert (report.giou.modal, report.giou.amodal) == (1.0, 0.0)
    assert report.giou.all == pytest.approx(2 / 3)
    assert report.ciou.all == pytest.approx(24 / 72)
    assert report.latency_ms.p50 == 20.0
    assert [(row.form, row.queries, row.giou) for row in report.forms] == [
        ("absent", 1, 1.0),
        ("attribute", 2, 0.5),
    ]
    assert report.forms[0].reasoning_accuracy is None
    assert json.loads(summarise([right]).model_dump_json())["no_object_accuracy"] is None
    assert "no-object accuracy   -" in as_table(summarise([right]))


def test_a_failed_query_has_no_overlap() -> None:
    assert failure(question(), "timeout").overlap.iou == 0.0
    assert failure(question(targets=0), "timeout").overlap.iou == 0.0
    assert not failure(question(targets=0), "timeout").answered_none
