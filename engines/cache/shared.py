"""SharedLevel: the level of a cache that replicas share, as the engines see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.01, 0.1, 1.5  # seconds between two looks at what another replica makes


@dataclass(frozen=True, slots=True)
class Found:
    """The value is there."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Leased:
    """The value is not there, and it is this caller's to make; `token` gives the lease back."""

    token: str


Claim = Found | Leased | Literal["busy", "unavailable"]
"""``busy``: another replica is making the value. ``unavailable``: there is nobody to ask; make it yourself."""


class SharedLevel(Protocol):
    """Values by key, and leases on those that are being made. No method raises: what fails is as if not there."""

    @property
    def lease_seconds(self) -> float:
        """How long a lease holds that nobody gives back."""
        ...

    def takes(self, nbytes: int) -> bool:
        """Whether a value of that size may be put."""
        ...

    async def claim(self, key: str) -> Claim:
        """The value, or else a lease on it; never the lease on a value that is there."""
        ...

    def publish(self, key: str, encode: Callable[[], bytes], token: str | None) -> None:
        """Begin to keep what `encode` gives, for a while; then give the lease back. `encode` runs in a thread."""
        ...

    def give_up(self, key: str, token: str) -> None:
        """Begin to give a lease back without a value."""
        ...

    async def discard(self, key: str) -> bool:
        """Forget a value; whether that worked."""
        ...


async def claim_or_wait(level: SharedLevel, key: str) -> Claim:
    """A claim that outlasts another replica's: never ``busy``.

    Looks again and again while another replica makes the value, and takes over when that one gives up or dies.
    After the time of a lease nobody is waited for any more: then it is ``unavailable``.
    """
    clock = asyncio.get_running_loop().time
    pause, last = FIRST_PAUSE, clock() + level.lease_seconds
    while (claim := await level.claim(key)) == "busy":
        left = last - clock()
        if left <= 0:
            return "unavailable"
        await asyncio.sleep(min(pause, left))
        pause = min(pause * GROWTH, LONGEST_PAUSE)
    return claim
