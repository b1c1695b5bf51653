"""CacheObserver: what the caches tell about themselves, for metrics and tests."""

from __future__ import annotations

from collections import Counter
from typing import Literal, Protocol

CacheName = Literal["embedding", "image"]
Level = Literal["memory", "redis"]
Trouble = Literal["timeout", "connection", "full", "refused"]
BreakerState = Literal["closed", "half_open", "open"]


class CacheObserver(Protocol):
    """Is told of every look-up and of every fault of the shared level. Calls must be quick and must not raise."""

    def hit(self, cache: CacheName, level: Level) -> None:
        """A value was found in this level."""

    def joined(self, cache: CacheName) -> None:
        """A value was in the making already, and was shared."""

    def miss(self, cache: CacheName) -> None:
        """No level had the value."""

    def bad_value(self, cache: CacheName) -> None:
        """The shared level had something that is damaged, too long or foreign; it counts as not found."""

    def trouble(self, kind: Trouble) -> None:
        """An operation on the shared level failed."""

    def breaker(self, name: str, state: BreakerState) -> None:
        """A circuit breaker changed its state; `name` is ``all`` or ``writes``."""


class CountingObserver:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.hits: Counter[tuple[CacheName, Level]] = Counter()
        self.shared: Counter[CacheName] = Counter()
        self.misses: Counter[CacheName] = Counter()
        self.bad_values: Counter[CacheName] = Counter()
        self.troubles: Counter[Trouble] = Counter()
        self.breakers: dict[str, BreakerState] = {}

    def hit(self, cache: CacheName, level: Level) -> None:
        """A value was found in this level."""
        self.hits[cache, level] += 1

    def joined(self, cache: CacheName) -> None:
        """A value was in the making already."""
        self.shared[cache] += 1

    def miss(self, cache: CacheName) -> None:
        """No level had the value."""
        self.misses[cache] += 1

    def bad_value(self, cache: CacheName) -> None:
        """A value could not be used."""
        self.bad_values[cache] += 1

    def trouble(self, kind: Trouble) -> None:
        """An operation on the shared level failed."""
        self.troubles[kind] += 1

    def breaker(self, name: str, state: BreakerState) -> None:
        """A circuit breaker changed its state."""
        self.breakers[name] = state
