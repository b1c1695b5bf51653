"""The report of a run: figures and verdicts as JSON, as text, and as one HTML page with plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from engines.evaluation.html import document, table
from engines.evaluation.plots import curves, lengths
from loadtests.load.figures import (
    MEASURES,
    PERCENTILES,
    Figures,
    Summary,
    figure_names,
    is_good,
    percentile,
    summarise,
)
from loadtests.load.objectives import Objectives, Verdict, judge
from loadtests.load.records import OK, Record
from loadtests.load.run import Ran
from loadtests.load.server_side import between

WINDOWS = 40
"""Points of a plot over time."""
MARKS = ("queue", "ttft", "ttfd", "ttfm", "total")
"""Among a request's stages: moments since it came, not lengths of their own."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the load, and whether it keeps the objectives."""

    rate: float
    summary: Summary
    verdicts: list[Verdict]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A run and what it came to. `whole` has the figures of all steps together, the server's own among them."""

    ran: Ran
    objectives: Objectives
    whole: Summary
    steps: list[Step]

    @property
    def kept(self) -> bool:
        """Whether the run is whole and no step misses an objective."""
        verdicts = [each for step in self.steps for each in step.verdicts]
        return not self.ran.fault and all(each.outcome != "missed" for each in verdicts)


def make_report(ran: Ran, objectives: Objectives) -> LoadReport:
    """Count and judge. Steps that a run did not reach before it broke off are left out; what the server says is of all.

    The last step lasts until its clients have asked their last prompts, or until the run broke off.
    """
    load, good = ran.plan.load, objectives.good
    last = max((record.intended for record in ran.records), default=0.0)
    end = last if ran.fault else max(load.total, last)
    served = between(ran.before, ran.after)
    whole = summarise(ran.records, end, good)
    whole.figures.update(served)
    steps = []
    for number, rate in enumerate(load.rates):
        records = [record for record in ran.records if record.step == number]
        begins, is_last = number * load.seconds, number + 1 == len(load.rates)
        if records or not ran.fault:
            seconds = end - begins if is_last else min(load.seconds, end - begins)
            summary = summarise(records, seconds, good)
            verdicts = judge(objectives, served | summary.figures, summary.not_shown)
            steps.append(Step(rate, summary, verdicts))
    return LoadReport(ran, objectives, whole, steps)


def write_report(report: LoadReport) -> Path:
    """Write ``report.json`` and ``report.html`` into the run's folder; returns the page."""
    folder = report.ran.plan.folder
    (folder / "report.json").write_text(json.dumps(as_json(report), indent=2) + "\n", "utf-8")
    page = folder / "report.html"
    page.write_text(as_page(report), "utf-8")
    return page


def as_json(report: LoadReport) -> dict[str, object]:
    """Everything but the single requests."""
    plan = report.ran.plan
    return {
        "scenario": plan.scenario.name,
        "url": plan.url,
        "complete": not report.ran.fault,
        "fault": report.ran.fault,
        "kept": report.kept,
        "requests": report.whole.requests,
        "outcomes": report.whole.outcomes,
        "figures": _rounded(report.whole.figures),
        "stages_ms": _rounded(report.whole.stages),
        "steps": [
            {
                "rate": step.rate,
                "requests": step.summary.requests,
                "outcomes": step.summary.outcomes,
                "figures": _rounded(step.summary.figures),
                "verdicts": [asdict(verdict) for verdict in step.verdicts],
            }
            for step in report.steps
        ],
    }


def as_text(report: LoadReport) -> str:
    """The verdicts, for a terminal."""
    lines = [f"{report.whole.requests} requests: {_outcomes(report.whole)}"]
    for step in report.steps:
        lines.append(f"at {step.rate:g} clients/s")
        lines += [_line(each) for each in step.verdicts]
    if report.ran.fault:
        lines.append(f"INCOMPLETE: {report.ran.fault}")
    return "\n".join(lines)


def _line(verdict: Verdict) -> str:
    mark = {"kept": "kept", "missed": "MISSED", "not shown": "–"}[verdict.outcome]
    value = verdict.outcome if verdict.outcome == "not shown" else _number(verdict.value)
    return f"  {mark:6} {verdict.figure:28} {value:>10}  {verdict.bound}"


def as_page(report: LoadReport) -> str:
    """The page."""
    plan = report.ran.plan
    title = f"Load test: {plan.scenario.name}"
    fault = escape(report.ran.fault)
    return document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f"<p class='note'>{escape(plan.scenario.meaning)}; {report.whole.requests} requests to {escape(plan.url)} "
            f"over {', '.join(plan.transports)}. Times are from the moment at which a request was to be sent.</p>",
            f"<p class='warn'>Incomplete: {fault}. What follows was measured till then.</p>" if fault else "",
            "<h2>Objectives</h2>",
            *[_verdicts(step) for step in report.steps],
            "<h2>Times, ms</h2>",
            *[_times(step) for step in report.steps],
            _plots(report),
            "<h2>All figures</h2>",
            _figures(report.whole),
            "<h2>Outcomes</h2>",
            table(
                ["outcome", "requests"], [[name, str(n)] for name, n in report.whole.outcomes.most_common()]
            ),
        ],
    )


def _verdicts(step: Step) -> str:
    rows = "".join(
        f"<tr><td>{escape(each.figure)}</td><td>{_number(each.value)}</td><td>{escape(each.bound)}</td>"
        f"<td class='{each.outcome.replace(' ', '-')}'>{each.outcome}</td></tr>"
        for each in step.verdicts
    )
    head = "<tr><th>figure</th><th>value</th><th>objective</th><th></th></tr>"
    return f"<h3>{step.rate:g} clients/s</h3><table>{head}{rows}</table>"


def _times(step: Step) -> str:
    rows = [
        [meaning, *[_number(step.summary.figures.get(f"{measure}_p{at}")) for at in PERCENTILES]]
        for measure, meaning in MEASURES.items()
    ]
    return f"<h3>{step.rate:g} clients/s</h3>" + table(["", *[f"p{at}" for at in PERCENTILES]], rows)


def _figures(summary: Summary) -> str:
    meanings = figure_names()
    rows = [[name, _number(value), meanings[name]] for name, value in summary.figures.items()]
    return table(["figure", "value", "meaning"], rows)


def _plots(report: LoadReport) -> str:
    windows = _windows(report)
    goodput = [(second, rate) for second, _, rate, _ in windows]
    longest = sorted(report.whole.stages.items(), key=lambda item: -item[1])
    stages = {name: ms for name, ms in longest if name not in MARKS}
    drawn = [
        curves(_against_load(report, windows), ("requests a second", "time to the end, ms")),
        curves(
            {
                f"p{at}": [(second, percentile(times, at)) for second, times, _, _ in windows if times]
                for at in (50, 95)
            },
            ("second of the run", "time to the end, ms"),
        ),
        curves(
            {"sent": [(second, rate) for second, _, _, rate in windows], "good": goodput},
            ("second of the run", "requests a second"),
        ),
        "<figure>"
        + lengths(stages, "ms")
        + "<figcaption>stages, medians; they overlap</figcaption></figure>",
    ]
    return f"<h2>Plots</h2><div class='row'>{''.join(drawn)}</div>"


def _against_load(
    report: LoadReport, windows: Sequence[tuple[float, list[float], float, float]]
) -> dict[str, list[tuple[float, float]]]:
    """Latency over load: a point for each step, or, where there is but one, for each rate that windows of time had."""
    if len(report.steps) > 1:
        return {
            f"p{at}": [
                (step.summary.figures["rate_per_s"], step.summary.figures[f"end_to_end_ms_p{at}"])
                for step in report.steps
                if f"end_to_end_ms_p{at}" in step.summary.figures
            ]
            for at in PERCENTILES[:3]
        }
    pooled: dict[float, list[float]] = {}
    for _, times, _, rate in windows:
        pooled.setdefault(rate, []).extend(times)
    return {
        f"p{at}": [(rate, percentile(times, at)) for rate, times in pooled.items() if times]
        for at in (50, 95)
    }


def _windows(report: LoadReport) -> list[tuple[float, list[float], float, float]]:
    """The run in equal pieces: its second, the times to the end, goodput and requests a second."""
    width = max(1.0, report.ran.plan.load.total / WINDOWS)
    pieces: dict[int, list[Record]] = {}
    for record in report.ran.records:
        pieces.setdefault(int(record.intended / width), []).append(record)
    found = []
    for number, records in sorted(pieces.items()):
        times = [r.end_to_end_ms for r in records if r.outcome == OK and r.end_to_end_ms is not None]
        good = sum(is_good(record, report.objectives.good) for record in records)
        found.append((number * width, times, good / width, len(records) / width))
    return found


def _outcomes(summary: Summary) -> str:
    return ", ".join(f"{count} {name}" for name, count in summary.outcomes.most_common()) or "none"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _rounded(figures: Figures) -> Figures:
    return {name: round(value, 4) for name, value in figures.items()}
