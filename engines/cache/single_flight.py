"""SingleFlightCache: bounded memory of values that are made once, however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from engines.cache.memory import MemoryLevel

Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class _Flight(Generic[Value]):
    """One value in the making and how many wait for it."""

    task: asyncio.Task[Value]
    waiters: int = 0


@dataclass(slots=True)
class CacheCounts:
    """How often a value was found, was already in the making, or had to be begun."""

    hits: int = 0
    joined: int = 0
    made: int = 0


class SingleFlightCache(Generic[Value]):
    """Least-recently-used memory of values by key, `capacity` bytes at most; `weigh` gives a value's bytes.

    Those who ask for one key share its making. It goes on while anybody waits for it, whoever began it, and is
    cancelled when the last one leaves. A failure fails its waiters and is not remembered.
    """

    def __init__(self, capacity: int, weigh: Callable[[Value], int]) -> None:
        self._memory = MemoryLevel(capacity, weigh)
        self._flights: dict[str, _Flight[Value]] = {}
        self.counts = CacheCounts()

    def __contains__(self, key: str) -> bool:
        return key in self._memory

    @property
    def nbytes(self) -> int:
        """Bytes of all values that are remembered."""
        return self._memory.nbytes

    def in_making(self, key: str) -> bool:
        """Whether somebody's making of this value can be joined."""
        return key in self._flights

    async def get_or_make(self, key: str, make: Callable[[], Awaitable[Value]]) -> Value:
        """The value of `key`, from `make` unless it is known or in the making; raises what `make` raises."""
        if (kept := self._memory.get(key)) is not None:
            self.counts.hits += 1
            return kept
        flight = self._flights.get(key)
        if flight is None:
            self.counts.made += 1
            flight = _Flight(asyncio.create_task(self._make(key, make)))
            self._flights[key] = flight
        else:
            self.counts.joined += 1
        return await self._wait(key, flight)

    def wanted(self, key: str) -> bool:
        """Asked where a value is being made: whether it will be remembered, not discarded meanwhile."""
        flight = self._flights.get(key)
        return flight is not None and flight.task is asyncio.current_task()

    def discard(self, key: str) -> None:
        """Forget the value of `key`. One in the making goes on for those who wait, and is not remembered."""
        self._memory.discard(key)
        self._flights.pop(key, None)

    async def aclose(self) -> None:
        """Cancel what is in the making and forget everything."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._flights.clear()
        self._memory.clear()

    async def _wait(self, key: str, flight: _Flight[Value]) -> Value:
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                flight.task.cancel()

    async def _make(self, key: str, make: Callable[[], Awaitable[Value]]) -> Value:
        value = await make()
        if self.wanted(key):
            self._memory.put(key, value)
        return value
