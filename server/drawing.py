"""Drawing: pictures of masks are made in a few threads of their own, which nothing else waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

DRAW_THREADS = 2
"""Of the largest images each drawing takes hundreds of megabytes."""

Drawn = TypeVar("Drawn")


class Drawing:
    """Draws in `threads`. One drawing is asked for at a time by a request, so those that wait are bounded, too."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads

    async def drawn(self, call: Callable[[], Drawn]) -> Drawn:
        """What the blocking `call` gives, or raises. Cancelled before its turn, it is not made."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def draw_threads() -> ThreadPoolExecutor:
    """The threads; leave their context when nothing is drawn any more."""
    return ThreadPoolExecutor(DRAW_THREADS, "draw")
