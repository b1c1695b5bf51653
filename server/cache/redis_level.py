"""RedisLevel: values and leases on Redis that may be slow, full or away without anybody noticing but the counters."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from engines.cache.observer import CacheName, CacheObserver, Trouble
from engines.cache.shared import Claim, Found, Leased
from server.cache.breaker import CircuitBreaker
from server.cache.lease import (
    CLAIM,
    FORGET,
    INSIST,
    RELEASE,
    RENEW,
    YIELDING,
    forgotten_key,
    lease_key,
    value_key,
)

READ_BYTES = 1 << 20
"""An embedding is read in a few pieces: in pieces of the library's 32 KiB it takes ten times as long."""
NO_WRITES = ("MISCONF ", "READONLY ", "NOREPLICAS ")
"""What stands in Redis's refusal of writes, besides its want of memory, though it can be read."""

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class RedisLimits:
    """What the gateway allows Redis, seconds and bytes.

    `budget` is for one operation, with the wait for one of `connections`. Values live for `value_seconds`, leases
    for `lease_seconds`. After `failures` in a row nothing is asked for `pause`.
    """

    budget: float = 0.05
    value_seconds: float = 3600.0
    lease_seconds: float = 3.0
    max_value: int = 9 << 20
    connections: int = 16
    failures: int = 3
    pause: float = 2.0


class RedisLevel:
    """One Redis server as a level of the caches; its keys begin with `prefix`.

    No method raises, and none takes longer than the budget. There are two circuit breakers: one for everything, and
    one for writes, because a Redis that is full or read-only can still be read.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        limits: RedisLimits,
        observer: CacheObserver,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=limits.connections,
            timeout=limits.budget,
            socket_timeout=None,  # the budget is for the whole operation
            socket_read_size=READ_BYTES,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._prefix = prefix
        self._limits = limits
        self._observer = observer
        self._all = CircuitBreaker("all", limits.failures, limits.pause, observer.breaker, clock)
        self._writes = CircuitBreaker("writes", 1, limits.pause, observer.breaker, clock)
        self._claim = self._redis.register_script(CLAIM)
        self._forget = self._redis.register_script(FORGET)
        self._insist = self._redis.register_script(INSIST)
        self._renew = self._redis.register_script(RENEW)
        self._release = self._redis.register_script(RELEASE)
        self._later: set[asyncio.Task[None]] = set()
        self._publishing: dict[str, asyncio.Task[None]] = {}
        """By key what is about to be put."""
        self._last_fault = ""

    @property
    def lease_seconds(self) -> float:
        """How long a lease holds that nobody renews or gives back."""
        return self._limits.lease_seconds

    def takes(self, nbytes: int) -> bool:
        """Whether a value of that size may be put."""
        return nbytes <= self._limits.max_value

    async def claim(
        self, key: str, cache: CacheName = "embedding", *, yielding: bool = False, again: bool = False
    ) -> Claim:
        """The value, or else a lease on it, where leases can be written; none on what was forgotten if `again`.

        It is looked for outside the script first: Redis hands out long values from Lua several times slower.
        """
        value = await self.first_bytes(key, self._limits.max_value + 1, cache)
        if value:
            return Found(value) if self._is_short_enough(value, cache) else "unavailable"
        if value is None or not self._writes.allows():
            return "unavailable"
        token = secrets.token_hex(16)
        owner = YIELDING + token if yielding else token
        lasting = int(self._limits.lease_seconds * 1000)
        args: list[int | str] = [self._limits.max_value, owner, lasting, int(again)]
        try:
            reply: bytes | int | None = await self._ask(
                lambda: self._claim(keys=self._keys(key), args=args), cache
            )
        except asyncio.CancelledError:
            self.give_up(key, token)  # Redis may have given it, though nobody waits for the answer
            raise
        if isinstance(reply, bytes):
            return Found(reply) if self._is_short_enough(reply, cache) else "unavailable"
        if reply is None or reply == -1:
            return "unavailable"
        self._writes.succeeded()
        return Leased(token, yielding) if reply == 1 else "busy"

    async def read(self, key: str, cache: CacheName) -> bytes | None:
        """The value, if there is one that is not too long."""
        value = await self.first_bytes(key, self._limits.max_value + 1, cache)
        return value if value and self._is_short_enough(value, cache) else None

    async def first_bytes(self, key: str, nbytes: int, cache: CacheName) -> bytes | None:
        """The first bytes of the value, none of them if there is no value; None if it cannot be read."""
        where = value_key(self._prefix, key)
        found = await self._ask(lambda: self._redis.getrange(where, 0, nbytes - 1), cache)
        return found if isinstance(found, bytes) else None

    async def put(self, key: str, value: bytes, seconds: float | None = None) -> bool:
        """Keep a value, for `seconds` in place of the limits'; whether that worked."""
        if not self.takes(len(value)) or not self._writes.allows():
            return False
        where = value_key(self._prefix, key)
        milliseconds = max(1, int((seconds or self._limits.value_seconds) * 1000))
        if await self._ask(lambda: self._redis.set(where, value, px=milliseconds)) is None:
            return False
        self._writes.succeeded()
        return True

    async def insist(self, key: str, token: str) -> bool:
        """Let a lease yield no more, and hold for its whole time; False if it is not the token's any more."""
        return await self._prolonged(self._insist, key, token)

    async def renew(self, key: str, token: str) -> bool:
        """Let a lease hold for its whole time again; False if it is not the token's any more."""
        return await self._prolonged(self._renew, key, token)

    def publish(self, key: str, encode: Callable[[], bytes], token: str | None) -> None:
        """Begin to keep what `encode` gives; then give the lease back. `encode` runs in a thread."""
        before = self._publishing.get(key)
        task = self._publishing[key] = self._start(self._publish(key, encode, token, before))

        def done(_: object) -> None:
            if self._publishing.get(key) is task:
                del self._publishing[key]

        task.add_done_callback(done)

    def give_up(self, key: str, token: str) -> None:
        """Begin to give a lease back without a value."""
        self._start(self._give_back(key, token))

    async def discard(self, key: str) -> bool:
        """Delete a value that is of no use; whether that worked."""
        where = value_key(self._prefix, key)
        return await self._ask(lambda: self._redis.delete(where)) is not None

    async def forget(self, key: str) -> None:
        """Delete a value, after one that is about to be put, and the lease of whoever is making one now.

        That is noted for as long as values live.
        """
        if (publishing := self._publishing.get(key)) is not None:
            await asyncio.wait([publishing])
        noted = int(self._limits.value_seconds * 1000)
        await self._ask(lambda: self._forget(keys=self._keys(key), args=[noted]))

    async def trouble(self) -> str:
        """Why the level is not of full use now; empty if it is. Asks Redis, unless a breaker forbids it."""
        if await self._ask(self._redis.ping) is None:
            return f"Redis is not used: {self._last_fault}"
        if self._writes.state != "closed" and not await self.put("probe", b"probe", seconds=1.0):
            return f"Redis takes no new values: {self._last_fault}"
        return ""

    async def aclose(self) -> None:
        """Finish what was begun, which the budget bounds, and close the connections."""
        await asyncio.gather(*self._later, return_exceptions=True)
        await self._redis.aclose()

    async def _publish(
        self, key: str, encode: Callable[[], bytes], token: str | None, before: asyncio.Task[None] | None
    ) -> None:
        """Put the value, after that of `before`. One whose lease was lost meanwhile may have been forgotten by now."""
        if before is not None:
            await asyncio.wait([before])
        await self.put(key, await asyncio.to_thread(encode))
        if token is not None and await self._released(key, token) == 0:
            await self.discard(key)

    async def _prolonged(self, script: AsyncScript, key: str, token: str) -> bool:
        """False if the lease is not the token's any more; True where nobody knows."""
        args: list[int | str] = [token, int(self._limits.lease_seconds * 1000)]
        where = lease_key(self._prefix, key)
        return await self._ask(lambda: script(keys=[where], args=args)) != 0

    async def _give_back(self, key: str, token: str) -> None:
        await self._released(key, token)

    async def _released(self, key: str, token: str) -> int | None:
        """1 if the lease was the token's, 0 if it was not any more; None if nobody knows."""
        where = lease_key(self._prefix, key)
        released: int | None = await self._ask(lambda: self._release(keys=[where], args=[token]))
        return released

    def _keys(self, key: str) -> list[str]:
        """Of the value, of its lease and of the note that it was forgotten."""
        return [where(self._prefix, key) for where in (value_key, lease_key, forgotten_key)]

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return task

    def _is_short_enough(self, value: bytes, cache: CacheName) -> bool:
        if len(value) > self._limits.max_value:
            self._observer.bad_value(cache)
            return False
        return True

    async def _ask(
        self, command: Callable[[], Awaitable[Reply]], cache: CacheName | None = None
    ) -> Reply | None:
        """The reply of one command; None where the breaker is open, or the command fails, which is counted.

        `cache` is whose value the command reads, if it reads one.
        """
        if not self._all.allows():
            return None
        try:
            async with asyncio.timeout(self._limits.budget):
                reply = await command()
        except (TimeoutError, RedisTimeoutError):
            self._failed("timeout", f"no answer within {self._limits.budget * 1000:.0f} ms", self._all)
        except (RedisConnectionError, OSError):
            self._failed("connection", "it cannot be reached, or refuses the connection", self._all)
        except ResponseError as fault:
            self._refused(fault, cache)
        except RedisError:
            self._failed("refused", "it does not talk like Redis", self._all)
        else:
            self._all.succeeded()
            return reply
        return None

    def _refused(self, fault: ResponseError, cache: CacheName | None) -> None:
        """Redis answers, but not as wished. What a script meets is told by its text alone where Redis is old."""
        message = str(fault)
        if cache is not None and "WRONGTYPE " in message:
            self._all.succeeded()
            self._observer.bad_value(cache)
        elif isinstance(fault, OutOfMemoryError) or "OOM " in message:
            self._all.succeeded()
            self._failed("full", "its memory is full", self._writes)
        elif isinstance(fault, ReadOnlyError) or any(code in message for code in NO_WRITES):
            self._all.succeeded()
            self._failed("refused", "it refuses writes", self._writes)
        else:
            self._failed("refused", "it refuses the commands", self._all)

    def _failed(self, kind: Trouble, words: str, breaker: CircuitBreaker) -> None:
        self._last_fault = words
        self._observer.trouble(kind)
        breaker.failed()
