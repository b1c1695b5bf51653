"""The figures of an evaluation, as values, as JSON and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from pydantic import BaseModel, ConfigDict

from engines.evaluation import metrics
from engines.evaluation.metrics import Decision, Overlap, ciou, giou, mean, percentile, ratio_interval
from engines.evaluation.outcomes import Outcome
from engines.evaluation.questions import Fault

ERRORS_SHOWN = 10
BOX_IOU = 0.5
"""From this IoU on a box is right, as RefCOCO's grounding papers count (EGM too)."""


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


class Interval(_Figures):
    """The middle 95 % of a figure, had other pictures been drawn; None where there are too few."""

    low: float
    high: float


class Bin(_Figures):
    """The decisions of like confidence."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


class Instances(_Figures):
    """AP and AR of instances, class-agnostic, with queries in the place of pictures (COCO's definitions)."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: float | None


class Relation(_Figures):
    """How the heatmap's IoU goes along with the mask's."""

    count: int
    correlation: float
    slope: float
    intercept: float


class Report(_Figures):
    """The figures of one evaluation; a figure is null where no query counts towards it.

    decision_accuracy: share of the queries whose mask type was chosen as the prompt asks.
    giou, ciou: over the fused masks of each query; without an object, an empty answer counts as an IoU of 1.
    instance_iou: mean over the queries with an object of the mean IoU of their objects, matched one to one.
    no_object_accuracy: share of the queries without an object that were answered with no mask.
    object_accuracy: share of the queries with an object that were answered with a mask.
    reasoning_accuracy: share of the queries with an object whose reasoning names colour and kind of every target.
    stages_ms: median of each stage, as the server measured it.
    instances: AP and AR, from the masks' predicted IoUs.
    box_accuracy: share of the queries with one object whose box has an IoU of 0.5 or more.
    boundary_iou: mean over the queries with an object of the IoU of the outlines.
    hidden_iou: mean over the queries about something partly hidden, where both masks were asked for; an answer without
        masks counts as 0. Otherwise over those that were answered with both.
    confusion: how often each type was wanted, and which was decided: ``confusion[wanted][decided]``.
    ece, reliability: how far the decision's probability can be trusted.
    heatmap: null unless heatmaps were asked for.
    intervals: of the figures that are means or ratios, by the bootstrap over pictures.
    faults: what of the data set, or of a file of results, could not be used, by kind.
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
    instances: Instances
    box_accuracy: float | None
    boundary_iou: float | None
    hidden_iou: float | None
    confusion: dict[str, dict[str, int]]
    ece: float | None
    reliability: list[Bin]
    heatmap: Relation | None
    intervals: dict[str, Interval]
    faults: dict[str, int]
    fault_examples: list[str]


def summarise(
    outcomes: Sequence[Outcome], faults: Sequence[Fault] = (), *, forced: bool = False, both: bool = False
) -> Report:
    """Sum outcomes up.

    With `forced`, requests named the mask type: there is no decision to judge. With `both`, they asked for both
    masks: an answer without them does not show what is hidden and has that wrong.
    """
    if both:
        outcomes = [_hidden_judged(each) for each in outcomes]
    judged = [] if forced else _judged(outcomes)
    decisions = [Decision(each.wanted, each.decided, each.confidence) for each in judged]
    calibration = metrics.calibration(decisions)
    there = [outcome for outcome in outcomes if outcome.targets]
    absent = [outcome for outcome in outcomes if not outcome.targets]
    modal = [outcome.overlap for outcome in there if outcome.wanted == "modal"]
    amodal = [outcome.overlap for outcome in there if outcome.wanted == "amodal"]
    overlaps = [outcome.overlap for outcome in outcomes]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    return Report(
        queries=len(outcomes),
        failed=len(failed),
        decision_accuracy=_share(outcome.decided_right for outcome in judged),
        giou=Split(all=giou(overlaps), modal=giou(modal), amodal=giou(amodal)),
        ciou=Split(all=ciou(overlaps), modal=ciou(modal), amodal=ciou(amodal)),
        instance_iou=mean([outcome.instance_iou for outcome in there if outcome.instance_iou is not None]),
        no_object_accuracy=_share(outcome.answered_none for outcome in absent),
        object_accuracy=_share(outcome.masks > 0 for outcome in there),
        reasoning_accuracy=_share(_told(there)),
        forms=[_form(form, outcomes, judged) for form in sorted({outcome.form for outcome in outcomes})],
        latency_ms=_latency(outcomes),
        stages_ms=_stages(outcomes),
        errors=[f"{outcome.label}: {outcome.error}" for outcome in failed[:ERRORS_SHOWN]],
        instances=Instances(**asdict(metrics.score_instances([outcome.instances for outcome in outcomes]))),
        box_accuracy=_share(each.box_iou >= BOX_IOU for each in outcomes if each.box_iou is not None),
        boundary_iou=giou([each.boundary for each in outcomes if each.boundary is not None]),
        hidden_iou=mean([each.hidden_iou for each in outcomes if each.hidden_iou is not None]),
        confusion=metrics.confusion(decisions),
        ece=calibration.ece if calibration else None,
        reliability=[Bin(**asdict(each)) for each in calibration.bins] if calibration else [],
        heatmap=_relation(outcomes),
        intervals=_intervals(outcomes, judged),
        faults=dict(Counter(fault.kind for fault in faults)),
        fault_examples=[f"{fault.kind}: {fault}" for fault in faults[:ERRORS_SHOWN]],
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
        f"box IoU ≥ 0.5        {_number(report.box_accuracy)}",
        f"boundary IoU         {_number(report.boundary_iou)}",
        f"hidden-part IoU      {_number(report.hidden_iou)}",
        f"instances            {_instances(report.instances)}",
        f"decisions            {_confusion(report.confusion)}",
        f"calibration (ECE)    {_number(report.ece)}",
        f"heatmap with mask    {_correlation(report.heatmap)}",
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
    lines += [f"failed: {error}" for error in report.errors]
    lines += [f"skipped: {count} × {kind}" for kind, count in report.faults.items()]
    return "\n".join(lines + [f"skipped: {example}" for example in report.fault_examples])


def _instances(scores: Instances) -> str:
    named = {"AP": scores.ap, "AP50": scores.ap50, "AP75": scores.ap75, "APs": scores.ap_small}
    named |= {"APm": scores.ap_medium, "APl": scores.ap_large, "AR": scores.ar}
    return "   ".join(f"{name} {_number(value)}" for name, value in named.items())


def _confusion(matrix: Mapping[str, Mapping[str, int]]) -> str:
    told = [
        f"{wanted} as " + ", ".join(f"{decided} {count}" for decided, count in row.items())
        for wanted, row in matrix.items()
    ]
    return "   ".join(told)


def _correlation(relation: Relation | None) -> str:
    return f"r {relation.correlation:.3f} ({relation.count} queries)" if relation else "-"


def _relation(outcomes: Sequence[Outcome]) -> Relation | None:
    pairs = [(each.heatmap_iou, each.overlap.iou) for each in outcomes if each.heatmap_iou is not None]
    found = metrics.relate([heat for heat, _ in pairs], [mask for _, mask in pairs])
    return Relation(**asdict(found)) if found else None


def _intervals(outcomes: Sequence[Outcome], judged: Sequence[Outcome]) -> dict[str, Interval]:
    """The intervals of the main figures, by the names they have in the report."""
    amodal = [each for each in outcomes if each.targets and each.wanted == "amodal"]
    modal = [each for each in outcomes if each.targets and each.wanted == "modal"]
    samples: dict[str, list[tuple[float, float, str]]] = {
        "decision_accuracy": [(float(each.decided_right), 1.0, _cluster(each)) for each in judged],
        "no_object_accuracy": [
            (float(each.answered_none), 1.0, _cluster(each)) for each in outcomes if not each.targets
        ],
    }
    for name, chosen in (("all", outcomes), ("modal", modal), ("amodal", amodal)):
        samples[f"giou.{name}"] = [(each.overlap.iou, 1.0, _cluster(each)) for each in chosen]
        samples[f"ciou.{name}"] = [
            (each.overlap.intersection, each.overlap.union, _cluster(each)) for each in chosen
        ]
    means: dict[str, Callable[[Outcome], float | None]] = {
        "instance_iou": lambda each: each.instance_iou,
        "hidden_iou": lambda each: each.hidden_iou,
        "boundary_iou": lambda each: _iou(each.boundary),
        "box_accuracy": lambda each: None if each.box_iou is None else float(each.box_iou >= BOX_IOU),
    }
    for name, figure in means.items():
        values = [(figure(each), _cluster(each)) for each in outcomes]
        samples[name] = [(value, 1.0, cluster) for value, cluster in values if value is not None]
    found = {name: _interval(rows) for name, rows in samples.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def _interval(rows: Sequence[tuple[float, float, str]]) -> Interval | None:
    if not rows:
        return None
    above, below, clusters = zip(*rows, strict=True)
    found = ratio_interval(above, below, clusters)
    return Interval(low=found.low, high=found.high) if found else None


def _cluster(outcome: Outcome) -> str:
    """Queries about one picture are not independent."""
    return outcome.picture or outcome.label


def _iou(found: Overlap | None) -> float | None:
    return None if found is None else found.iou


def _judged(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those whose decision was the model's own, and the failed ones if it decides at all."""
    if not any(outcome.source == "model" for outcome in outcomes):
        return []
    return [outcome for outcome in outcomes if outcome.source in ("model", None)]


def _told(outcomes: Iterable[Outcome]) -> list[bool]:
    """Whether the targets were named, where the truth has names."""
    return [outcome.named for outcome in outcomes if outcome.named is not None]


def _form(form: str, outcomes: Sequence[Outcome], judged: Sequence[Outcome]) -> FormRow:
    rows = [outcome for outcome in outcomes if outcome.form == form]
    return FormRow(
        form=form,
        queries=len(rows),
        decision_accuracy=_share(outcome.decided_right for outcome in judged if outcome.form == form),
        giou=giou([outcome.overlap for outcome in rows]),
        reasoning_accuracy=_share(_told(outcome for outcome in rows if outcome.targets)),
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


def _hidden_judged(outcome: Outcome) -> Outcome:
    missed = outcome.occluded and outcome.hidden_iou is None
    return replace(outcome, hidden_iou=0.0) if missed else outcome


def _share(flags: Iterable[bool]) -> float | None:
    return mean([float(flag) for flag in flags])


def _split(split: Split) -> str:
    return f"all {_number(split.all)}   modal {_number(split.modal)}   amodal {_number(split.amodal)}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
