"""Timeline: the stages of requests, when they began and ended, heard where traces would be."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from statistics import median

REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage of the request `lane`, from `began` to `ended`, seconds by `time.perf_counter`."""

    lane: int
    name: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Spent:
    """A stage's time: the median over the requests in ms, and of the request it is part of. Stages may overlap."""

    name: str
    milliseconds: float
    share: float


def spent(bars: Sequence[Bar]) -> list[Spent]:
    """The stages in the order in which they first began; what belongs to no request is left out."""
    whole = {bar.lane: bar.seconds for bar in bars if bar.name == REQUEST and bar.lane >= 0}
    found: dict[str, dict[int, float]] = {}
    for bar in sorted(bars, key=lambda bar: bar.began):
        if bar.lane in whole:
            lanes = found.setdefault(bar.name, {})
            lanes[bar.lane] = lanes.get(bar.lane, 0.0) + bar.seconds
    return [
        Spent(
            name,
            median(lanes.values()) * 1000,
            median(seconds / whole[lane] for lane, seconds in lanes.items()),
        )
        for name, lanes in found.items()
    ]


class Timeline:
    """Implements `server.telemetry.spans.Spans`; `bars` grows as stages end, and may be emptied."""

    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self._lanes = itertools.count()
        self._lane: ContextVar[int] = ContextVar("lane", default=-1)

    @contextmanager
    def request(self, name: str, incoming: Mapping[str, str]) -> Iterator[None]:
        token = self._lane.set(next(self._lanes))
        try:
            with self.stage(REQUEST):
                yield
        finally:
            self._lane.reset(token)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._note(name, began)

    def past(self, name: str, seconds: float) -> None:
        self._note(name, time.perf_counter() - seconds)

    def describe(self, name: str, attributes: Mapping[str, str | int]) -> None: ...

    def outgoing(self) -> dict[str, str]:
        return {}

    def trace_id(self) -> str | None:
        return None

    def close(self) -> None: ...

    def _note(self, name: str, began: float) -> None:
        self.bars.append(Bar(self._lane.get(), name, began, time.perf_counter()))
