"""The report as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from engines.evaluation.examples import Example, draw
from engines.evaluation.html import document, table
from engines.evaluation.plots import histogram, reliability, scatter
from engines.evaluation.published import TABLES, Row, Table, tables_for
from engines.evaluation.questions import DataSet
from engines.evaluation.report import Report
from engines.evaluation.runner import Ran


def write_page(
    path: Path,
    report: Report,
    ran: Ran,
    dataset: DataSet,
    *,
    title: str,
    url: str,
    published: Sequence[Table] = TABLES,
) -> None:
    """Write the report of a run. `title` begins with the data set's layout."""
    examples = draw(ran, dataset)
    parts = [
        f"<h1>{escape(title)}</h1><p class='note'>{report.queries} queries to {escape(url)}, {report.failed} failed; "
        "intervals hold 95 % of a bootstrap over pictures.</p>",
        _masks(report),
        _instances(report),
        _shares(report),
        _forms(report),
        _decisions(report),
        *[_published(table) for table in tables_for(title.split()[0], published)],
        _plots(report, ran),
        *[_gallery(name, chosen) for name, chosen in examples.items() if chosen],
        _faults(report),
    ]
    path.write_text(document(title, parts), "utf-8")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _with_interval(report: Report, name: str, value: float | None) -> str:
    interval = report.intervals.get(name)
    around = f" ({_percent(interval.low)} to {_percent(interval.high)})" if interval else ""
    return _percent(value) + around


def _masks(report: Report) -> str:
    rows = []
    for name, split in (("gIoU", report.giou), ("cIoU", report.ciou)):
        parts = (("all", split.all), ("modal", split.modal), ("amodal", split.amodal))
        cells = [_with_interval(report, f"{name.lower()}.{part}", value) for part, value in parts]
        rows.append([name, *cells])
    return "<h2>Masks</h2>" + table(["%", "All", "Modal", "Amodal"], rows)


def _instances(report: Report) -> str:
    scores = report.instances
    head = ["%", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR"]
    cells = [
        scores.ap,
        scores.ap50,
        scores.ap75,
        scores.ap_small,
        scores.ap_medium,
        scores.ap_large,
        scores.ar,
    ]
    return "<h2>Instances</h2>" + table(head, [["this run", *map(_percent, cells)]])


def _shares(report: Report) -> str:
    named = {
        "decision accuracy": ("decision_accuracy", report.decision_accuracy),
        "no-target accuracy": ("no_object_accuracy", report.no_object_accuracy),
        "answered where there is a target": ("object_accuracy", report.object_accuracy),
        "reasoning names every target": ("reasoning_accuracy", report.reasoning_accuracy),
        "box IoU of 0.5 or more": ("box_accuracy", report.box_accuracy),
        "instance IoU": ("instance_iou", report.instance_iou),
        "boundary IoU": ("boundary_iou", report.boundary_iou),
        "hidden-part IoU": ("hidden_iou", report.hidden_iou),
    }
    rows = [[name, _with_interval(report, key, value)] for name, (key, value) in named.items()]
    latency = report.latency_ms
    times = [("p50", latency.p50), ("p90", latency.p90), ("p99", latency.p99)]
    rows += [[f"latency {name}, ms", "–" if value is None else f"{value:.0f}"] for name, value in times]
    return "<h2>Figures</h2>" + table(["", "% unless it says ms"], rows)


def _forms(report: Report) -> str:
    rows = [
        [
            row.form,
            str(row.queries),
            *map(_percent, (row.decision_accuracy, row.giou, row.reasoning_accuracy)),
        ]
        for row in report.forms
    ]
    return "<h2>Queries by form</h2>" + table(
        ["form", "queries", "decision, %", "gIoU, %", "reasoning, %"], rows
    )


def _decisions(report: Report) -> str:
    columns = ["modal", "amodal", "none"]
    rows = [
        [f"wanted {wanted}", *[str(row[each]) for each in columns]]
        for wanted, row in report.confusion.items()
    ]
    note = f"<p class='note'>Expected calibration error: {_percent(report.ece)} %</p>"
    return "<h2>Decisions</h2>" + table(["", *[f"decided {each}" for each in columns]], rows) + note


def _published(published: Table) -> str:
    head = f"<h2>{escape(published.title)}</h2>"
    if not published.rows:
        note = f"No published rows are known here: their source ({published.source}) could not be read."
        return f"{head}<p class='note'>{escape(note)} Whoever has it brings them with --published FILE.</p>"
    rows = [[_system(row), *[f"{each:.1f}" for each in row.figures]] for row in published.rows]
    notes = [
        f"Rows marked [{one.file}] are from that file, which names: {one.source}."
        for one in published.brought
    ]
    if not all(row.file for row in published.rows):
        notes.insert(0, f"Published, read in {published.source}.")
    told = "".join(f"<p class='note'>{escape(note)}</p>" for note in notes)
    return head + table(["%", *published.columns], rows) + told


def _system(row: Row) -> str:
    return f"{row.system} [{row.file}]" if row.file else row.system


def _plots(report: Report, ran: Ran) -> str:
    times = [each.latency_ms for each in ran.outcomes if each.latency_ms is not None]
    figures = [
        histogram(
            [each.overlap.iou * 100 for each in ran.outcomes], ("IoU of the fused masks, %", "queries")
        ),
        histogram(times, ("latency, ms", "queries")),
    ]
    if report.reliability:
        curve = [(each.confidence, each.accuracy) for each in report.reliability]
        figures.append(reliability(curve, ("confidence of the decision", "accuracy")))
    pairs = [(each.heatmap_iou, each.overlap.iou) for each in ran.outcomes if each.heatmap_iou is not None]
    if report.heatmap is not None:
        line = (report.heatmap.slope, report.heatmap.intercept)
        figures.append(scatter(pairs, ("IoU of the heatmap", "IoU of the mask"), line))
    told = ""
    if (found := report.heatmap) is not None:
        told = f"The heatmap's IoU goes with the mask's: r = {found.correlation:.3f}, {found.count} queries."
    return f"<h2>Plots</h2><div class='row'>{''.join(figures)}</div><p class='note'>{told}</p>"


def _gallery(name: str, examples: list[Example]) -> str:
    figures = "".join(
        f'<figure><img src="{each.picture}" alt=""><figcaption>“{escape(each.outcome.prompt)}” — '
        f"IoU {_percent(each.outcome.overlap.iou)} %, wanted {each.outcome.wanted}, "
        f"decided {each.outcome.decided}</figcaption></figure>"
        for each in examples
    )
    note = "<p class='note'>Red: the answer. Green: the outline of the truth.</p>"
    return f"<h2>{escape(name)}</h2>{note}<div class='row'>{figures}</div>"


def _faults(report: Report) -> str:
    if not report.faults and not report.errors:
        return ""
    rows = [[kind, str(count)] for kind, count in report.faults.items()]
    told = "".join(f"<li>{escape(each)}</li>" for each in [*report.fault_examples, *report.errors])
    return f"<h2>Skipped and failed</h2>{table(['kind', 'count'], rows)}<ul>{told}</ul>"
