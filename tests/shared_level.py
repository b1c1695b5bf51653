"""InMemory: a shared level of one key, for what is tested without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engines.cache.shared import Claim, Found, Leased

LEASE = 3.0


def now() -> float:
    return asyncio.get_running_loop().time()


class InMemory:
    """One key's value and lease, by the event loop's clock."""

    lease_seconds = LEASE

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.owner, self.until = "", 0.0
        self.yielding = self.forgotten = False
        self.tokens = self.renewals = 0

    def takes(self, nbytes: int) -> bool:
        return True

    async def claim(self, key: str, *, yielding: bool = False, again: bool = False) -> Claim:
        if self.value is not None:
            return Found(self.value)
        if now() < self.until and (yielding or not self.yielding):
            return "busy"
        if again and self.forgotten:
            return "unavailable"
        self.tokens += 1
        self.owner, self.until, self.yielding = str(self.tokens), now() + LEASE, yielding
        return Leased(self.owner, yielding)

    async def insist(self, key: str, token: str) -> bool:
        held = await self.renew(key, token)
        self.yielding = self.yielding and not held
        return held

    async def renew(self, key: str, token: str) -> bool:
        if token != self.owner or now() >= self.until:
            return False
        self.renewals += 1
        self.until = now() + LEASE
        return True

    def publish(self, key: str, encode: Callable[[], bytes], token: str | None) -> None:
        self.value = encode()
        if token is not None:
            self.give_up(key, token)

    def give_up(self, key: str, token: str) -> None:
        if token == self.owner:
            self.until = 0.0

    async def discard(self, key: str) -> bool:
        self.value = None
        return True

    async def forget(self, key: str) -> None:
        self.value, self.until, self.forgotten = None, 0.0, True
