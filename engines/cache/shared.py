"""SharedLevel: the level of a cache that replicas share, as the engines see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.01, 0.1, 1.5  # seconds between two looks at what another replica makes
RENEWALS = 3  # of a lease within its time, so that one of them may fail
MOST_LEASES = 10
"""So many times the time of a lease it is renewed for at most, and waited for: a maker may hang, too."""


@dataclass(frozen=True, slots=True)
class Found:
    """The value is there."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Leased:
    """The value is not there, and it is this caller's to make; `token` gives the lease back.

    A lease that is `yielding` goes to the next one who claims the value and does not yield.
    """

    token: str
    yielding: bool = False


class LeaseLost(Exception):
    """A lease that was yielding has gone to another, was deleted with a value that is forgotten, or ran out."""


Claim = Found | Leased | Literal["busy", "unavailable"]
"""``busy``: another replica is making the value. ``unavailable``: make it yourself, there is nobody to ask."""


class SharedLevel(Protocol):
    """Values by key, and leases on those that are being made. No method raises: what fails is as if not there."""

    @property
    def lease_seconds(self) -> float:
        """How long a lease holds that nobody renews or gives back."""
        ...

    def takes(self, nbytes: int) -> bool:
        """Whether a value of that size may be put."""
        ...

    async def claim(self, key: str, *, yielding: bool = False, again: bool = False) -> Claim:
        """The value, or else a lease on it; never the lease on a value that is there.

        One who has lost a lease claims it `again`: where the value was forgotten lately it is ``unavailable``.
        """
        ...

    async def insist(self, key: str, token: str) -> bool:
        """Let a lease yield no more, and hold for its whole time; False if it is not the token's any more."""
        ...

    async def renew(self, key: str, token: str) -> bool:
        """Let a lease hold for its whole time again; False if it is not the token's any more."""
        ...

    def publish(self, key: str, encode: Callable[[], bytes], token: str | None) -> None:
        """Begin to keep what `encode` gives, for a while; then give the lease back. `encode` runs in a thread."""
        ...

    def give_up(self, key: str, token: str) -> None:
        """Begin to give a lease back without a value."""
        ...

    async def discard(self, key: str) -> bool:
        """Delete a value that is of no use; whether that worked."""
        ...

    async def forget(self, key: str) -> None:
        """Delete a value, and let nobody keep one who is making it now."""
        ...


async def claim_or_wait(
    level: SharedLevel, key: str, yields: Callable[[], bool] = lambda: False, *, again: bool = False
) -> Claim:
    """A claim that outlasts another replica's: never ``busy``.

    Looks again and again while another replica makes the value, and takes over when that one gives up or dies.
    `yields` tells at each look whether the lease may be a yielding one.
    After `MOST_LEASES` leases nobody is waited for any more: then it is ``unavailable``.
    """
    clock = asyncio.get_running_loop().time
    pause, last = FIRST_PAUSE, clock() + MOST_LEASES * level.lease_seconds
    while (claim := await level.claim(key, yielding=yields(), again=again)) == "busy":
        left = last - clock()
        if left <= 0:
            return "unavailable"
        await asyncio.sleep(min(pause, left))
        pause = min(pause * GROWTH, LONGEST_PAUSE)
    return claim


async def yield_no_more(level: SharedLevel, key: str, token: str) -> None:
    """Insist on a lease before the value is made: from here on it yields no more.

    Raises:
        LeaseLost: it is not the token's any more.
    """
    if not await level.insist(key, token):
        raise LeaseLost(key)


@asynccontextmanager
async def held(
    level: SharedLevel, key: str, lease: Leased | None, hurry: asyncio.Event
) -> AsyncIterator[None]:
    """A lease, if there is one, is renewed while the value is made, for `MOST_LEASES` leases at most.

    One that is yielding is no longer so as soon as there is a `hurry`.
    """
    if lease is None:
        yield
        return
    keeping = [asyncio.create_task(_renew(level, key, lease.token))]
    if lease.yielding:
        keeping.append(asyncio.create_task(_insist_in_a_hurry(level, key, lease.token, hurry)))
    try:
        yield
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)


async def _renew(level: SharedLevel, key: str, token: str) -> None:
    for _ in range((MOST_LEASES - 1) * RENEWALS):  # the last one holds for a lease
        await asyncio.sleep(level.lease_seconds / RENEWALS)
        if not await level.renew(key, token):
            return


async def _insist_in_a_hurry(level: SharedLevel, key: str, token: str, hurry: asyncio.Event) -> None:
    """Should the lease be lost by then, `yield_no_more` will tell."""
    await hurry.wait()
    await level.insist(key, token)
