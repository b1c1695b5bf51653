"""Leases on a virtual clock: renewed while a value is made and no longer, waited for while they hold, not for ever."""

from __future__ import annotations

import asyncio

import pytest

from engines.cache.shared import (
    LONGEST_PAUSE,
    MOST_LEASES,
    RENEWALS,
    Claim,
    Found,
    Leased,
    LeaseLost,
    claim_or_wait,
    held,
    yield_no_more,
)
from tests.jumping_loop import run_jumping
from tests.shared_level import LEASE, InMemory, now


async def make(level: InMemory, seconds: float) -> None:
    """A replica that takes so long to make the value."""
    claim = await level.claim("a")
    assert isinstance(claim, Leased)
    async with held(level, "a", claim, asyncio.Event()):
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


def test_a_lease_that_is_held_yields_until_somebody_is_in_a_hurry() -> None:
    async def hold(level: InMemory, hurry: asyncio.Event) -> list[bool]:
        lease, yielded = await level.claim("a", yielding=True), list[bool]()
        assert isinstance(lease, Leased)
        async with held(level, "a", lease, hurry):
            for _ in range(2):
                await asyncio.sleep(LEASE / RENEWALS / 4)  # sooner than it is renewed
                yielded.append(level.yielding)
                hurry.set()
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody holds it any more"
        return yielded

    async def hold_both() -> None:
        hurry = asyncio.Event()
        assert await hold(InMemory(), hurry) == [True, False]
        assert await hold(InMemory(), hurry) == [False, False], "there was a hurry before"

    run_jumping(hold_both())


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
        async with held(level, "a", None, asyncio.Event()):
            await asyncio.sleep(5 * LEASE)
        return level.renewals

    assert run_jumping(hold()) == 0
