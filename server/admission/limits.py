"""Rate limits: counted by the `limits` library, in Redis for all replicas, else in this process."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from engines.cache.observer import Trouble
from server.errors import RATE_LIMITED, RequestRejected

Limits = tuple[RateLimitItem, ...]
MEMORY_CALLERS = 16_384
"""So many callers are counted in memory; then whoever was away longest is forgotten."""
AWAY_SECONDS = 1.0
"""So long a Redis is left alone that took too long."""
CONNECTIONS = 16
FAULTS = (RedisError, OSError, TimeoutError)

logger = logging.getLogger(__name__)


def parse_limits(text: str) -> Limits:
    """Limits as the library writes them: ``60/minute``, ``10/second;1000/hour``. Raises ValueError.

    The shortest comes first: what it refuses must not count against the longer ones.
    """
    try:
        found = tuple(sorted(parse_many(text), key=lambda item: item.get_expiry()))
    except ValueError as error:
        raise ValueError(f'"{text}" is not like 60/minute or 10/second;1000/hour') from error
    if any(item.amount < 1 or item.get_expiry() < 1 for item in found):
        raise ValueError(f'"{text}" allows nothing')
    return found


class RateLimits:
    """Counts requests by caller over sliding windows; `redis_url` None counts in memory only.

    `prefix` begins the keys in Redis; one operation there may take `budget` seconds. While Redis is away the counts
    go on in memory: each replica then allows the whole limit. `degraded` says so, and `report` hears of each fault.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        prefix: str = "r2sm:",
        budget: float = 0.05,
        report: Callable[[Trouble], None] = lambda _: None,
    ) -> None:
        self._memory = SlidingWindowCounterRateLimiter(BoundedMemory())
        self._budget = budget
        self._report = report
        self._pool: BlockingConnectionPool | None = None
        self._redis: SlidingWindowCounterRateLimiter | None = None
        if redis_url is not None:
            self._pool = BlockingConnectionPool.from_url(
                redis_url,
                max_connections=CONNECTIONS,
                timeout=budget,
                socket_timeout=budget,
                socket_connect_timeout=budget,
                retry=Retry(NoBackoff(), 1),  # a connection from before Redis was started anew
            )
            storage = RedisStorage(
                redis_url,
                implementation="redispy",
                key_prefix=f"{prefix}limits",
                connection_pool=self._pool,  # type: ignore[arg-type]  # as its documentation says
            )
            self._redis = SlidingWindowCounterRateLimiter(storage)
        self._away_until = -math.inf
        self.degraded = False

    async def charge(self, identity: str, limits: Limits, requests: int = 1) -> None:
        """Count requests. Raises `RequestRejected` (429) with the seconds until another one is allowed."""
        for item in limits if requests else ():
            wait = await self._hit(item, identity, requests)
            if wait is not None:
                raise RequestRejected(
                    RATE_LIMITED, f"no more than {item} are allowed", retry_after=max(1.0, wait)
                )

    async def trouble(self) -> str:
        """What is wrong with counting in Redis; empty if nothing is. Asks one that was away."""
        if self.degraded and self._pool is not None and time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(self._budget):
                    await Redis(connection_pool=self._pool).ping()
                self._note_back()
            except FAULTS as error:
                self._note_away(error)
        return "each replica counts by itself: Redis is away" if self.degraded else ""

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        if self._pool is not None:
            await self._pool.disconnect()

    async def _hit(self, item: RateLimitItem, identity: str, requests: int) -> float | None:
        if self._redis is None or time.monotonic() < self._away_until:
            return await _hit(self._memory, item, identity, requests)
        try:
            async with asyncio.timeout(self._budget):
                wait = await _hit(self._redis, item, identity, requests)
        except FAULTS as error:
            self._note_away(error)
            return await _hit(self._memory, item, identity, requests)
        self._note_back()
        return wait

    def _note_back(self) -> None:
        if self.degraded:
            self.degraded = False
            logger.info("rate limits are counted in Redis again")

    def _note_away(self, error: Exception) -> None:
        self._report(_kind(error))
        self._away_until = time.monotonic() + AWAY_SECONDS
        if not self.degraded:
            self.degraded = True
            logger.warning(
                "rate limits are counted by this process alone: Redis is away (%s)", type(error).__name__
            )


def _kind(error: Exception) -> Trouble:
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return "timeout"
    return "connection" if isinstance(error, (RedisConnectionError, OSError)) else "refused"


async def _hit(
    limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, identity: str, requests: int
) -> float | None:
    """None: counted and allowed. Else the seconds until the window has moved far enough."""
    if await limiter.hit(item, identity, cost=requests):
        return None
    stats = await limiter.get_window_stats(item, identity)
    return stats.reset_time - time.time()


class BoundedMemory(MemoryStorage):
    """The library's counts in memory, for sliding windows, of at most `capacity` callers.

    The library's own storage keeps every key until it expires and sweeps all of them at every hit.
    """

    def __init__(self, capacity: int = MEMORY_CALLERS) -> None:
        super().__init__()
        self._capacity = capacity
        self._windows: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        """By key: the number of the current window, the counts in the one before it and in it."""

    def __len__(self) -> int:
        return len(self._windows)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        now = time.time()
        number, previous, current = self._window(key, expiry, now)
        weighted = previous * (1 - now / expiry % 1) + current
        if math.floor(weighted) + amount > limit:
            return False
        self._windows[key] = (number, previous, current + amount)
        self._windows.move_to_end(key)
        if len(self._windows) > self._capacity:
            self._windows.popitem(last=False)
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        now = time.time()
        _, previous, current = self._window(key, expiry, now)
        left = (1 - now / expiry % 1) * expiry
        return previous, left if previous else 0.0, current, left + expiry

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        self._windows.pop(key, None)

    def _window(self, key: str, expiry: int, now: float) -> tuple[int, int, int]:
        number = int(now / expiry)
        seen, previous, current = self._windows.get(key, (number, 0, 0))
        if seen == number:
            return number, previous, current
        return number, current if seen == number - 1 else 0, 0
