"""Deadline: when a request came and when it must be done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from engines.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """`arrived` and `at` are seconds on the running event loop's clock."""

    arrived: float
    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """A deadline that many seconds from now."""
        now = asyncio.get_running_loop().time()
        return cls(now, now + seconds)

    def left(self) -> float:
        """Seconds left. Raises `DeadlineExceeded` when there are none."""
        left = self.at - asyncio.get_running_loop().time()
        if left <= 0:
            raise self.exceeded()
        return left

    @asynccontextmanager
    async def bound(self) -> AsyncIterator[None]:
        """What runs inside ends with it. Raises `DeadlineExceeded` then."""
        timeout = asyncio.timeout_at(self.at)
        try:
            async with timeout:
                yield
        except TimeoutError as error:
            if timeout.expired():
                raise self.exceeded() from error
            raise

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return asyncio.get_running_loop().time() - self.arrived

    def exceeded(self) -> DeadlineExceeded:
        """The error that says so."""
        return DeadlineExceeded(f"not done within {round((self.at - self.arrived) * 1000)} ms")
