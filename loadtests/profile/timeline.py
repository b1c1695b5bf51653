"""Timeline: the stages of requests, when they began and ended, heard where traces would be."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage of the request `lane`, from `began` to `ended`, seconds by `time.perf_counter`."""

    lane: int
    name: str
    began: float
    ended: float


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
            with self.stage("request"):
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
