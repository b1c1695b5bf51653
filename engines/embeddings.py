"""EmbeddingCache: bounded memory of image embeddings in which every image is encoded once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=_Sized)


@dataclass(slots=True, eq=False)
class _Flight(Generic[Value]):
    """One encode under way and how many requests wait for it."""

    task: asyncio.Task[Value]
    waiters: int = 0


@dataclass(slots=True)
class CacheCounts:
    """How often a request found its embedding, joined an encode under way, or began one."""

    hits: int = 0
    joined: int = 0
    encodes: int = 0


class EmbeddingCache(Generic[Value]):
    """Least-recently-used memory of embeddings by image digest, `capacity` bytes at most.

    Requests for one digest share one encode. It goes on while anybody waits for it, whoever began it, and is
    cancelled when the last one leaves. A failed encode fails its waiters and is not remembered.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[str, Value] = OrderedDict()
        self._flights: dict[str, _Flight[Value]] = {}
        self.nbytes = 0
        self.counts = CacheCounts()

    def __contains__(self, digest: str) -> bool:
        return digest in self._kept

    async def get_or_encode(self, digest: str, encode: Callable[[], Awaitable[Value]]) -> Value:
        """The embedding of the image `digest`, by `encode` unless under way; raises what that raises."""
        if (kept := self._kept.get(digest)) is not None:
            self._kept.move_to_end(digest)
            self.counts.hits += 1
            return kept
        flight = self._flights.get(digest)
        if flight is None:
            self.counts.encodes += 1
            flight = _Flight(asyncio.create_task(self._encode(digest, encode)))
            self._flights[digest] = flight
        else:
            self.counts.joined += 1
        return await self._wait(digest, flight)

    async def aclose(self) -> None:
        """Cancel the encodes under way and forget everything."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._flights.clear()
        self._kept.clear()
        self.nbytes = 0

    async def _wait(self, digest: str, flight: _Flight[Value]) -> Value:
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0:
                if self._flights.get(digest) is flight:
                    del self._flights[digest]
                flight.task.cancel()

    async def _encode(self, digest: str, encode: Callable[[], Awaitable[Value]]) -> Value:
        value = await encode()
        self._keep(digest, value)
        return value

    def _keep(self, digest: str, value: Value) -> None:
        if value.nbytes > self._capacity:
            return
        self._kept[digest] = value
        self.nbytes += value.nbytes
        while self.nbytes > self._capacity:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= oldest.nbytes
