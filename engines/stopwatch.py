"""Stopwatch: what each stage of one request took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engines.observers import NoPipelineObserver, PipelineObserver


class Stopwatch:
    """Milliseconds by stage, for one request; stages may overlap.

    `waited` is how many seconds ago the request came. `observer` hears of every stage and mark. `clock` tells
    seconds.
    """

    def __init__(
        self,
        waited: float = 0.0,
        observer: PipelineObserver | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._began = clock() - waited
        self._observer = observer or NoPipelineObserver()
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note how long the block took, if it succeeds; what is done twice adds up."""
        began = self._clock()
        with self._observer.stage(name):
            yield
        self._note(name, began)

    def mark(self, name: str) -> None:
        """Note how long it has been since the start; only the first mark of a name counts."""
        if name not in self.milliseconds:
            self._note(name, self._began)

    def _note(self, name: str, since: float) -> None:
        seconds = self._clock() - since
        self.milliseconds[name] = round(self.milliseconds.get(name, 0.0) + seconds * 1000, 2)
        self._observer.took(name, seconds)
