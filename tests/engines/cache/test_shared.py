"""Leases on a virtual clock: renewed while a value is made and no longer, waited for while they hold, not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from engines.cache.shared import (
    LONGEST_PAUSE,
    MOST_LEASES,
    Claim,
    Found,
    Leased,
    LeaseLost,
    claim_or_wait,
    held,
    yield_no_more,
)
from tests.jumping_loop import run_jumping

LEASE = 3.0


class InMemory:
    """One key's value and lease, by the event loop's clock."""

    lease_seconds = LEASE

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.owner, self.until = "", 0.0
        self.yielding = False
        self.tokens = self.renewals = 0

    def takes(self, nbytes: int) -> bool:
        return True

    async def claim(self, key: str, *, yielding: bool = False) -> Claim:
        if self.value is not None:
            return Found(self.value)
        if now() < self.until and (yielding or not self.yielding):
            return "busy"
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

    def give_up(self, key: str, token: str) -> None:
        self.until = 0.0

    async def discard(self, key: str) -> bool:
        self.value = None
        return True

    async def forget(self, key: str) -> None:
        self.value, self.until = None, 0.0


def now() -> float:
    return asyncio.get_running_loop().time()


async def make(level: InMemory, seconds: float) -> None:
    """A replica that takes so long to make the value."""
    claim = await level.claim("a")
    assert isinstance(claim, Leased)
    async with held(level, "a", claim.token):
        await asyncio.sleep(seconds)
    level.publish("a", lambda: b"made", claim.token)


async def follow(level: InMemory, seconds: float) -> tuple[Claim, float]:
    """What the next replica gets while the first one makes the value, and when."""
    making = asyncio.create_task(make(level, seconds))
    await asyncio.sleep(0)
    claim = await claim_or_wait(level, "a")
    came = now()
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody renews any more"
    return claim, came


def test_a_value_that_takes_longer_than_a_lease_is_made_once() -> None:
    claim, came = run_jumping(follow(InMemory(), 5 * LEASE))
    assert claim == Found(b"made")
    assert came == pytest.approx(5 * LEASE, abs=LONGEST_PAUSE)


def test_a_replica_that_hangs_is_waited_for_no_longer_than_some_leases() -> None:
    claim, came = run_jumping(follow(InMemory(), 1e6))
    assert claim == "unavailable" or isinstance(claim, Leased)
    assert came == pytest.approx(MOST_LEASES * LEASE, abs=LONGEST_PAUSE)


def test_a_replica_that_dies_is_waited_for_no_longer_than_its_lease() -> None:
    async def die() -> tuple[Claim, float]:
        level = InMemory()
        await level.claim("a")
        return await claim_or_wait(level, "a"), now()

    claim, came = run_jumping(die())
    assert claim == Leased("2")
    assert came == pytest.approx(LEASE, abs=LONGEST_PAUSE)


def test_one_who_waits_and_then_is_in_a_hurry_gets_a_lease_that_yields() -> None:
    """Both were patient: the other replica's lease is waited for until somebody in a hurry comes here."""

    async def wait() -> tuple[Claim, float]:
        level, comes = InMemory(), now() + LEASE / 2
        assert await level.claim("a", yielding=True) == Leased("1", yielding=True)
        return await claim_or_wait(level, "a", lambda: now() < comes), now()

    claim, came = run_jumping(wait())
    assert claim == Leased("2")
    assert came == pytest.approx(LEASE / 2, abs=LONGEST_PAUSE)


def test_who_insists_on_a_lease_hears_that_it_was_lost() -> None:
    async def lose() -> None:
        level = InMemory()
        await level.claim("a", yielding=True)
        await yield_no_more(level, "a", "1")
        assert await level.claim("a") == "busy", "it yields no more"
        await level.forget("a")
        with pytest.raises(LeaseLost):
            await yield_no_more(level, "a", "1")

    run_jumping(lose())


def test_a_lease_that_was_lost_is_not_asked_for_again() -> None:
    async def lose() -> int:
        level = InMemory()
        making = asyncio.create_task(make(level, 5 * LEASE))
        await asyncio.sleep(LEASE / 2)
        before, level.owner = level.renewals, "another replica"
        await making
        return level.renewals - before

    assert run_jumping(lose()) == 0


def test_without_a_lease_nothing_is_renewed() -> None:
    async def hold() -> int:
        level = InMemory()
        async with held(level, "a", None):
            await asyncio.sleep(5 * LEASE)
        return level.renewals

    assert run_jumping(hold()) == 0
