"""Asking, scoring and summing up: servers here are coroutines that know the truth, or spoil it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from engines.errors import InvalidInput
from engines.evaluation.outcomes import Answer, Outcome, QueryFailed, failure, score
from engines.evaluation.questions import Fault, FaultyData, Question, Reading
from engines.evaluation.report import as_table, summarise
from engines.evaluation.runner import Plan, ask_one, evaluate
from engines.events import MaskType, Rle
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
    """A set of questions without pictures: number 0 has no target, odd numbers ask for amodal masks."""

    def pictures(self) -> list[str]:
        """Eight of them."""
        return [str(number) for number in range(8)]

    def read(self, picture: str) -> Reading:
        """One question a picture."""
        number = int(picture)
        return Reading(
            (question(f"{number}.0", "amodal" if number % 2 else "modal", targets=min(number, 2)),)
        )


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
    outcomes = (await evaluate(Halves(), segment, Plan(concurrency=3), on_outcome=seen.append)).outcomes
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

    report = summarise((await evaluate(Halves(), segment)).outcomes)
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


def test_at_least_one_question_must_be_asked_at_once() -> None:
    with pytest.raises(InvalidInput):
        Plan(concurrency=0)


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
    decisions = "modal as modal 2, amodal 0, none 0   amodal as modal 1, amodal 0, none 0"
    assert f"decisions            {decisions}" in as_table(report)


def test_a_failed_query_has_no_overlap() -> None:
    assert failure(question(), "timeout").overlap.iou == 0.0
    assert failure(question(targets=0), "timeout").overlap.iou == 0.0
    assert not failure(question(targets=0), "timeout").answered_none


class Broken(Halves):
    """The same, where picture 3 is missing."""

    def read(self, picture: str) -> Reading:
        """A fault in the place of question 3."""
        if picture == "3":
            return Reading(faults=(Fault("missing_image", "3", "the picture is not there"),))
        return super().read(picture)


async def perfect(asked: Question) -> Answer:
    """A server that knows the truth."""
    return truth_of(asked)


async def test_what_cannot_be_used_is_skipped_and_counted_or_refused() -> None:
    ran = await evaluate(Broken(), perfect)
    report = summarise(ran.outcomes, ran.faults)
    assert (report.queries, report.faults) == (7, {"missing_image": 1})
    assert "skipped: missing_image: 3: the picture is not there" in as_table(report)
    with pytest.raises(FaultyData, match="the picture is not there"):
        await evaluate(Broken(), perfect, Plan(strict=True))


async def test_no_more_than_the_limit_is_asked() -> None:
    ran = await evaluate(Halves(), perfect, Plan(concurrency=2, limit=5))
    assert [outcome.label for outcome in ran.outcomes] == [f"{number}.0" for number in range(5)]


@pytest.mark.parametrize(("again", "attempts"), [(True, 3), (False, 1)])
async def test_a_busy_server_is_asked_again(
    again: bool, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.evaluation.runner.FIRST_WAIT", 0.001)
    asked = 0

    async def segment(_: Question) -> Answer:
        nonlocal asked
        asked += 1
        raise QueryFailed("busy", again=again)

    ran = await evaluate(Halves(), segment, Plan(retries=2, limit=1))
    assert (asked, ran.outcomes[0].error) == (attempts, "busy")


async def test_what_the_server_says_of_when_to_come_back_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = list[float]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def segment(_: Question) -> Answer:
        raise QueryFailed("busy", again=True, wait=600.0)

    monkeypatch.setattr("engines.evaluation.runner.asyncio.sleep", sleep)
    record = await ask_one(Halves().read("1").questions[0], segment, retries=2)
    assert (record.error, waits) == ("busy", [600.0, 600.0])


@pytest.mark.parametrize(
    ("name", "reasoning", "named"),
    [
        ("cat", "The cat is at the left.", True),
        ("cat", "The box is located at the left.", False),
        ("man", "A woman stands there.", False),
        ("St. Bernard", "It is a st. bernard.", True),
    ],
)
def test_a_name_counts_as_words_of_its_own(name: str, reasoning: str, named: bool) -> None:
    asked = replace(question(), names=(name,))
    assert score(asked, Answer("modal", reasoning, {}), 1.0).named is named


def test_a_mask_on_what_is_ignored_alone_is_no_false_positive() -> None:
    here, elsewhere = half(True), half(False)
    asked = replace(question(), truths=(here,), ignored=elsewhere)
    masks: dict[MaskType, list[Rle]] = {"modal": [encode(elsewhere).rle, encode(here).rle]}
    found = score(asked, Answer("modal", "", masks, {}, {"modal": [0.9, 0.8]}), 1.0)
    assert summarise([found]).instances.ap == pytest.approx(1.0)


async def test_perfect_empty_and_shifted_predictors_get_what_they_must() -> None:
    async def empty(asked: Question) -> Answer:
        return Answer(asked.mask_type, "", {})

    async def shifted(asked: Question) -> Answer:
        masks = [encode(np.roll(truth, 1, axis=1)).rle for truth in asked.truths]
        return Answer(asked.mask_type, "", {asked.mask_type: masks})

    class OneHalf(Halves):
        def read(self, picture: str) -> Reading:
            return Reading((question(f"{picture}.0"),))

    full, none, moved = [
        summarise((await evaluate(OneHalf(), each)).outcomes) for each in (perfect, empty, shifted)
    ]
    assert (full.giou.all, full.ciou.all, full.instances.ap, full.box_accuracy, full.boundary_iou) == (1,) * 5
    assert (none.giou.all, none.ciou.all, none.instances.ap, none.box_accuracy, none.boundary_iou) == (0,) * 5
    # 3 of 4 columns stay: 18 / 30 pixels; the last column of 8 wraps nowhere, as the half is at the left
    assert moved.giou.all == pytest.approx(18 / 30)
    assert moved.box_accuracy == 1.0
    assert moved.instances.ap == pytest.approx(0.3, abs=0.001)  # right up to 0.6: three thresholds of ten


def test_what_is_hidden_is_compared_where_the_answer_has_both_masks() -> None:
    whole, seen = np.ones(SHAPE, dtype=np.bool_), half(True)
    asked = Question("1", b"", SHAPE, "x", "amodal", (whole,), (), "form", hidden=whole & ~seen)
    codes = {"modal": [encode(seen).rle], "amodal": [encode(whole).rle]}
    both = score(asked, Answer("amodal", "", {"modal": codes["modal"], "amodal": codes["amodal"]}), 1.0)
    one = score(asked, Answer("amodal", "", {"amodal": codes["amodal"]}), 1.0)
    wrong = score(asked, Answer("amodal", "", {"modal": codes["amodal"], "amodal": codes["amodal"]}), 1.0)
    assert (both.hidden_iou, one.hidden_iou, wrong.hidden_iou) == (1.0, None, 0.0)
    nothing = score(asked, Answer("amodal", "", {}), 1.0)
    seen_whole = score(question(), truth_of(question()), 1.0)
    outcomes = [both, nothing, failure(asked, "busy"), seen_whole]
    assert summarise(outcomes).hidden_iou == 1.0
    asked_for = summarise(outcomes, both=True)
    assert asked_for.hidden_iou == pytest.approx(1 / 3), "no answer and no mask are wrong"


def test_masks_without_a_score_each_are_a_failure() -> None:
    code = encode(half(True)).rle
    with pytest.raises(QueryFailed, match="1 scores for 2 masks"):
        score(question(), Answer("modal", "", {"modal": [code, code]}, scores={"modal": [0.5]}), 1.0)


def test_ignored_pixels_do_not_count() -> None:
    asked = Question("1", b"", SHAPE, "x", "modal", (half(True),), (), "form", ignored=half(False))
    everything = encode(np.ones(SHAPE, dtype=np.bool_)).rle
    assert score(asked, Answer("modal", "", {"modal": [everything]}), 1.0).overlap.iou == 1.0


def test_a_forced_type_is_no_decision() -> None:
    outcome = score(question(), Answer("modal", "", {}, confidence=1.0, source="request"), 1.0)
    report = summarise([outcome, failure(question(), "busy")], forced=True)
    assert (report.decision_accuracy, report.ece, report.confusion["modal"]["modal"]) == (None, None, 0)


def test_the_heatmap_is_compared_with_the_truth() -> None:
    answer = Answer("modal", "", {"modal": [encode(half(True)).rle]}, heatmap=encode(half(True)).rle)
    right = score(question(), answer, 1.0)
    wrong = score(question(), Answer("modal", "", {}, heatmap=encode(half(False)).rle), 1.0)
    assert (right.heatmap_iou, wrong.heatmap_iou) == (1.0, 0.0)
    relation = summarise([right, wrong]).heatmap
    assert relation is not None
    assert relation.count == 2
    assert relation.correlation == pytest.approx(1.0)
    assert "heatmap with mask    r 1.000 (2 queries)" in as_table(summarise([right, wrong]))


def test_a_predicted_box_is_compared_with_the_annotated_one() -> None:
    asked = Question("1", b"", SHAPE, "x", "modal", (half(True),), (), "form", box=(0, 0, 4, 3))
    assert score(asked, truth_of(asked), 1.0).box_iou == 0.5
