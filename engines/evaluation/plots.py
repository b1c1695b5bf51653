"""Small plots as inline SVG: points, curves and bars, without any library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

SIDE, MARGIN = 260, 38
COLOURS = ("#2a6fdb", "#e0533d", "#1c7c3c", "#8a4fbe")


def scatter(
    points: Sequence[tuple[float, float]],
    labels: tuple[str, str],
    line: tuple[float, float] | None = None,
) -> str:
    """Points in 0..1 on both axes; `line` is (slope, intercept)."""
    dots = "".join(f'<circle cx="{_x(x)}" cy="{_y(y)}" r="2.5" class="dot"/>' for x, y in points)
    if line is not None:
        ends = [(x, line[1] + line[0] * x) for x in (0.0, 1.0)]
        dots += _path([(x, min(1.0, max(0.0, y))) for x, y in ends], "line")
    return _frame(dots, labels)


def reliability(bins: Sequence[tuple[float, float]], labels: tuple[str, str]) -> str:
    """Accuracy over confidence: points in 0..1, with the diagonal of a calibrated model."""
    dots = "".join(f'<circle cx="{_x(x)}" cy="{_y(y)}" r="4" class="dot"/>' for x, y in bins)
    return _frame(_path([(0, 0), (1, 1)], "rule") + _path(bins, "line") + dots, labels)


def histogram(values: Sequence[float], labels: tuple[str, str], bars: int = 24) -> str:
    """How often values fall into equal bars between the smallest and the largest."""
    if not values:
        return _frame("", labels)
    low, high = min(values), max(values)
    width = (high - low) / bars or 1.0
    counts = [0] * bars
    for value in values:
        counts[min(bars - 1, int((value - low) / width))] += 1
    most, step = max(counts), 1 / bars
    drawn = "".join(
        f'<rect x="{_x(n * step)}" y="{_y(count / most)}" width="{(SIDE * step) - 1:.1f}" '
        f'height="{SIDE * count / most:.1f}" class="bar"/>'
        for n, count in enumerate(counts)
    )
    return _frame(drawn, labels, (f"{low:.0f}", f"{low + width * bars:.0f}"), ("0", str(most)))


def curves(series: Mapping[str, Sequence[tuple[float, float]]], labels: tuple[str, str]) -> str:
    """One curve for each name, through its points from left to right; both axes begin at 0."""
    points = [point for curve in series.values() for point in curve]
    widest = max((x for x, _ in points), default=0.0) or 1.0
    highest = max((y for _, y in points), default=0.0) or 1.0
    drawn = ""
    for number, (name, curve) in enumerate(series.items()):
        scaled = [(x / widest, y / highest) for x, y in sorted(curve)]
        colour = COLOURS[number % len(COLOURS)]
        style = f'style="stroke:{colour}"'
        drawn += _path(scaled, "line", style) + "".join(
            f'<circle cx="{_x(x)}" cy="{_y(y)}" r="2" class="line" {style}/>' for x, y in scaled
        )
        drawn += f'<text x="{MARGIN + 8}" y="{26 + 15 * number}" style="fill:{colour}">{escape(name)}</text>'
    return _frame(drawn, labels, ("0", f"{widest:.4g}"), ("0", f"{highest:.4g}"))


def lengths(values: Mapping[str, float], unit: str) -> str:
    """One bar across for each name, as long as its value."""
    longest = max(values.values(), default=0.0) or 1.0
    rows = []
    for number, (name, value) in enumerate(values.items()):
        top = 6 + 22 * number
        rows.append(
            f'<rect x="120" y="{top}" width="{max(1.0, 130 * value / longest):.1f}" height="16" class="bar"/>'
            f'<text x="114" y="{top + 12}" text-anchor="end">{escape(name)}</text>'
            f'<text x="{126 + 130 * value / longest:.1f}" y="{top + 12}">{value:.4g} {escape(unit)}</text>'
        )
    return f'<svg viewBox="0 0 {MARGIN + SIDE + 14} {22 * len(rows) + 12}" role="img">{"".join(rows)}</svg>'


def _x(value: float) -> str:
    return f"{MARGIN + SIDE * value:.1f}"


def _y(value: float) -> str:
    return f"{10 + SIDE * (1 - value):.1f}"


def _path(points: Sequence[tuple[float, float]], kind: str, style: str = "") -> str:
    return f'<polyline points="{" ".join(f"{_x(x)},{_y(y)}" for x, y in points)}" class="{kind}" {style}/>'


def _frame(
    inside: str,
    labels: tuple[str, str],
    ends: tuple[str, str] = ("0", "1"),
    heights: tuple[str, str] = ("0", "1"),
) -> str:
    across, up = (escape(label) for label in labels)
    bottom = 10 + SIDE
    return (
        f'<svg viewBox="0 0 {MARGIN + SIDE + 14} {bottom + 40}" role="img" aria-label="{up} over {across}">'
        f'<rect x="{MARGIN}" y="10" width="{SIDE}" height="{SIDE}" class="frame"/>{inside}'
        f'<text x="{MARGIN}" y="{bottom + 14}">{ends[0]}</text>'
        f'<text x="{MARGIN + SIDE}" y="{bottom + 14}" text-anchor="end">{ends[1]}</text>'
        f'<text x="{MARGIN + SIDE / 2}" y="{bottom + 32}" text-anchor="middle">{across}</text>'
        f'<text x="{MARGIN - 4}" y="{bottom}" text-anchor="end">{heights[0]}</text>'
        f'<text x="{MARGIN - 4}" y="20" text-anchor="end">{heights[1]}</text>'
        f'<text transform="translate(12 {10 + SIDE / 2}) rotate(-90)" text-anchor="middle">{up}</text></svg>'
    )
