"""An event loop on a virtual clock."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing else is to be done."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__()

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        inner: Any = self  # asyncio's own names, which its stubs do not have
        while inner._scheduled and inner._scheduled[0]._cancelled:
            heapq.heappop(inner._scheduled)._scheduled = False
            inner._timer_cancelled_count -= 1
        if not inner._ready and inner._scheduled:
            self._now = max(self._now, inner._scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]


def run_jumping(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` to its end on a loop of its own, in no time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)
