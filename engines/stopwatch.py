"""Stopwatch: what each stage of one request took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Milliseconds by stage, for one request; stages may overlap.

    `waited` is how many seconds ago the request came.
    """

    def __init__(self, waited: float = 0.0) -> None:
        self._began = time.perf_counter() - waited
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note how long the block took, if it succeeds."""
        began = time.perf_counter()
        yield
        self._note(name, began)

    def mark(self, name: str) -> None:
        """Note how long it has been since the start; only the first mark of a name counts."""
        if name not in self.milliseconds:
            self._note(name, self._began)

    def _note(self, name: str, since: float) -> None:
        self.milliseconds[name] = round((time.perf_counter() - since) * 1000, 2)
