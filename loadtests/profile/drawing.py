"""The timeline and the flame graph as inline SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from loadtests.profile.timeline import Bar

WIDTH, ROW, NAMES = 1060.0, 18, 120
LETTER = 6.6  # pixels
LEAST = 0.6
"""Pixels; what is narrower is not drawn."""
COLOURS = ("#e0873d", "#e0533d", "#d9a441", "#c97b4a", "#e8b06a")


@dataclass(slots=True)
class Frame:
    """A function below its caller: `seconds` of its own and of all that it called."""

    name: str
    seconds: float = 0.0
    inner: list[Frame] = field(default_factory=list)

    @property
    def own(self) -> float:
        """Seconds in the function itself."""
        return max(0.0, self.seconds - sum(frame.seconds for frame in self.inner))


def timeline(bars: Sequence[Bar]) -> str:
    """The stages one below the other, request by request, from the first one's beginning to the last one's end."""
    if not bars:
        return "<p class='note'>No stage was seen.</p>"
    start, end = min(bar.began for bar in bars), max(bar.ended for bar in bars)
    scale = (WIDTH - NAMES - 70) / max(end - start, 1e-9)
    rows = []
    for number, bar in enumerate(sorted(bars, key=lambda bar: (bar.lane, bar.began, -bar.ended))):
        left, wide = NAMES + (bar.began - start) * scale, max(1.0, (bar.ended - bar.began) * scale)
        colour = COLOURS[bar.lane % len(COLOURS)] if bar.name != "request" else "#9aa4b2"
        rows.append(
            f'<text x="{NAMES - 6}" y="{number * ROW + 13}" text-anchor="end">{escape(bar.name)}</text>'
            f'<rect x="{left:.1f}" y="{number * ROW + 3}" width="{wide:.1f}" height="{ROW - 5}" fill="{colour}"/>'
            f'<text x="{left + wide + 4:.1f}" y="{number * ROW + 13}">{(bar.ended - bar.began) * 1000:.1f} ms</text>'
        )
    return _svg(len(rows) * ROW, rows)


def flame_graph(root: Frame) -> str:
    """Callers on top, as wide as their time; pointing at a frame tells it whole."""
    rects, deepest = [], 0
    for frame, depth, left in _placed(root, 0, 0.0):
        wide = WIDTH * frame.seconds / root.seconds if root.seconds else 0.0
        if wide < LEAST:
            continue
        deepest = max(deepest, depth)
        told = f"{frame.name}: {frame.seconds * 1000:.1f} ms, itself {frame.own * 1000:.1f} ms"
        shown = frame.name[: max(0, int(wide / LETTER) - 1)]
        rects.append(
            f'<g><title>{escape(told)}</title><rect x="{left * WIDTH:.1f}" y="{depth * ROW}" width="{wide:.1f}" '
            f'height="{ROW - 1}" fill="{COLOURS[hash(frame.name) % len(COLOURS)]}"/>'
            f'<text x="{left * WIDTH + 3:.1f}" y="{depth * ROW + 12}">{escape(shown)}</text></g>'
        )
    return _svg((deepest + 1) * ROW, rects)


def hottest(root: Frame, count: int) -> list[tuple[str, float]]:
    """The functions with most seconds of their own, wherever they were called."""
    spent: dict[str, float] = {}
    for frame, _, _ in _placed(root, 0, 0.0):
        spent[frame.name] = spent.get(frame.name, 0.0) + frame.own
    return sorted(spent.items(), key=lambda item: -item[1])[:count]


def _placed(frame: Frame, depth: int, left: float, whole: float = 0.0) -> Iterator[tuple[Frame, int, float]]:
    """Every frame with its depth and where it begins, as a share of the whole."""
    whole = whole or frame.seconds
    yield frame, depth, left
    for inner in frame.inner:
        yield from _placed(inner, depth + 1, left, whole)
        left += inner.seconds / whole if whole else 0.0


def _svg(height: float, drawn: Sequence[str]) -> str:
    style = f"width:{WIDTH:.0f}px;max-width:none"
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height + 6:.0f}" style="{style}" role="img">{"".join(drawn)}</svg>'
    )
