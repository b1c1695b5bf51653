"""The figures of an evaluation, as values, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from engines.evaluation.metrics import ciou, giou, mean, percentile
from engines.evaluation.outcomes import Outcome

ERRORS_SHOWN = 10


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True)


class Split(_Figures):
    """One figure for all queries, and for those that ask for modal or amodal masks of an object that is there."""

    all: float | None
    modal: float | None
    amodal: float | None


class FormRow(_Figures):
    """The figures of the prompts of one form."""

    form: str
    queries: int
    decision_accuracy: float | None
    giou: float | None
    reasoning_accuracy: float | None


class Latency(_Figures):
    """Milliseconds from sending a request to having its answer."""

    p50: float | None
    p90: float | None
    p99: float | None


class Report(_Figures):
    """The figures of one evaluation; a figure is null where no query counts towards it.

    decision_accuracy: share of the queries whose mask type was chosen as the prompt asks.
    giou, ciou: over the fused masks of each query; without an object, an empty answer counts as an IoU of 1.
    instance_iou: mean over the queries with an object of the mean IoU of their objects, matched one to one.
    no_object_accuracy: share of the queries without an object that were answered with no mask.
    object_accuracy: share of the queries with an object that were answered with a mask.
    reasoning_accuracy: share of the queries with an object whose reasoning names colour and kind of every target.
    stages_ms: median of each stage, as the server measured it.
    """

    queries: int
    failed: int
    decision_accuracy: float | None
    giou: Split
    ciou: Split
    instance_iou: float | None
    no_object_accuracy: float | None
    object_accuracy: float | None
    reasoning_accuracy: float | None
    forms: list[FormRow]
    latency_ms: Latency
    stages_ms: dict[str, float]
    errors: list[str]


def summarise(outcomes: Sequence[Outcome]) -> Report:
    """Sum outcomes up."""
    there = [outcome for outcome in outcomes if outcome.targets]
    absent = [outcome for outcome in outcomes if not outcome.targets]
    modal = [outcome.overlap for outcome in there if outcome.wanted == "modal"]
    amodal = [outcome.overlap for outcome in there if outcome.wanted == "amodal"]
    overlaps = [outcome.overlap for outcome in outcomes]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    return Report(
        queries=len(outcomes),
        failed=len(failed),
        decision_accuracy=_share(outcome.decided_right for outcome in outcomes),
        giou=Split(all=giou(overlaps), modal=giou(modal), amodal=giou(amodal)),
        ciou=Split(all=ciou(overlaps), modal=ciou(modal), amodal=ciou(amodal)),
        instance_iou=mean([outcome.instance_iou for outcome in there if outcome.instance_iou is not None]),
        no_object_accuracy=_share(outcome.answered_none for outcome in absent),
        object_accuracy=_share(outcome.masks > 0 for outcome in there),
        reasoning_accuracy=_share(outcome.named for outcome in there),
        forms=[_form(form, outcomes) for form in sorted({outcome.form for outcome in outcomes})],
        latency_ms=_latency(outcomes),
        stages_ms=_stages(outcomes),
        errors=[f"{outcome.label}: {outcome.error}" for outcome in failed[:ERRORS_SHOWN]],
    )


def as_table(report: Report) -> str:
    """The report for a person to read."""
    lines = [
        f"queries              {report.queries} ({report.failed} failed)",
        f"decision accuracy    {_number(report.decision_accuracy)}",
        f"gIoU                 {_split(report.giou)}",
        f"cIoU                 {_split(report.ciou)}",
        f"instance IoU         {_number(report.instance_iou)}",
        f"no-object accuracy   {_number(report.no_object_accuracy)}",
        f"object accuracy      {_number(report.object_accuracy)}",
        f"reasoning accuracy   {_number(report.reasoning_accuracy)}",
        f"latency ms           p50 {_number(report.latency_ms.p50, 0)}   p90 {_number(report.latency_ms.p90, 0)}"
        f"   p99 {_number(report.latency_ms.p99, 0)}",
        f"stages ms (median)   {'   '.join(f'{name} {ms:.0f}' for name, ms in report.stages_ms.items()) or '-'}",
        "",
        f"{'form':12}{'queries':>8}{'decision':>10}{'gIoU':>8}{'reasoning':>11}",
    ]
    lines += [
        f"{row.form:12}{row.queries:8}{_number(row.decision_accuracy):>10}{_number(row.giou):>8}"
        f"{_number(row.reasoning_accuracy):>11}"
        for row in report.forms
    ]
    return "\n".join(lines + [f"failed: {error}" for error in report.errors])


def _form(form: str, outcomes: Sequence[Outcome]) -> FormRow:
    rows = [outcome for outcome in outcomes if outcome.form == form]
    return FormRow(
        form=form,
        queries=len(rows),
        decision_accuracy=_share(outcome.decided_right for outcome in rows),
        giou=giou([outcome.overlap for outcome in rows]),
        reasoning_accuracy=_share(outcome.named for outcome in rows if outcome.targets),
    )


def _latency(outcomes: Sequence[Outcome]) -> Latency:
    times = [outcome.latency_ms for outcome in outcomes if outcome.latency_ms is not None]
    return Latency(p50=percentile(times, 0.5), p90=percentile(times, 0.9), p99=percentile(times, 0.99))


def _stages(outcomes: Sequence[Outcome]) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for outcome in outcomes:
        for stage, milliseconds in outcome.timings_ms.items():
            times.setdefault(stage, []).append(milliseconds)
    return {stage: middle for stage, each in times.items() if (middle := percentile(each, 0.5)) is not None}


def _share(flags: Iterable[bool]) -> float | None:
    return mean([float(flag) for flag in flags])


def _split(split: Split) -> str:
    return f"all {_number(split.all)}   modal {_number(split.modal)}   amodal {_number(split.amodal)}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
