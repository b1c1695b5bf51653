"""Admission: how many requests may be here, and how many of them may be worked on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engines.deadline import Deadline
from engines.errors import Overloaded

RETRY_AFTER = 1.0  # seconds


class Admission:
    """At most `max_in_flight` requests are worked on, in the order they came; `max_queued` more may wait."""

    def __init__(self, max_in_flight: int, max_queued: int) -> None:
        self._places = max_in_flight + max_queued
        self._turns = asyncio.Semaphore(max_in_flight)
        self.present = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place for a request, taken before its body is read. Raises `Overloaded` at once if there is none."""
        if self.present >= self._places:
            raise Overloaded(f"{self.present} requests are here already", RETRY_AFTER)
        self.present += 1
        try:
            yield
        finally:
            self.present -= 1

    @asynccontextmanager
    async def turn(self, deadline: Deadline) -> AsyncIterator[None]:
        """A turn to be worked on. Raises `DeadlineExceeded` if it does not come in time."""
        try:
            async with asyncio.timeout_at(deadline.at):
                await self._turns.acquire()
        except TimeoutError as error:
            raise deadline.exceeded() from error
        try:
            yield
        finally:
            self._turns.release()
