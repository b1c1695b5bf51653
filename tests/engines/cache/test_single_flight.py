"""SingleFlightCache: every value is made once, memory is bounded, shared work survives one client's leaving."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.cache.single_flight import SingleFlightCache
from engines.errors import VisionFailed

KIB = 1024


class Maker:
    """Makes 1 KiB per key when its gate opens; counts what it did."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.began = asyncio.Event()
        self.calls: Counter[str] = Counter()
        self.cancelled = 0
        self.failing: set[str] = set()

    async def __call__(self, key: str) -> NDArray[np.uint8]:
        self.calls[key] += 1
        self.began.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if key in self.failing:
            raise VisionFailed(key)
        return np.full(KIB, int(key), np.uint8)


def fresh(capacity: int = 8 * KIB) -> tuple[SingleFlightCache[NDArray[np.uint8]], Maker]:
    return SingleFlightCache(capacity, lambda value: value.nbytes), Maker()


async def get(cache: SingleFlightCache[NDArray[np.uint8]], make: Maker, key: str) -> int:
    return int((await cache.get_or_make(key, lambda: make(key)))[0])


async def test_made_once_however_many_ask() -> None:
    cache, make = fresh()
    tasks = [asyncio.create_task(get(cache, make, "7")) for _ in range(20)]
    await asyncio.sleep(0)
    make.gate.set()
    assert await asyncio.gather(*tasks) == [7] * 20
    assert await get(cache, make, "7") == 7
    assert make.calls == {"7": 1}
    assert (cache.counts.made, cache.counts.joined, cache.counts.hits) == (1, 19, 1)


async def test_the_one_who_began_may_leave() -> None:
    cache, make = fresh()
    first = asyncio.create_task(get(cache, make, "1"))
    await asyncio.sleep(0)
    second = asyncio.create_task(get(cache, make, "1"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    make.gate.set()
    assert await second == 1
    assert make.calls == {"1": 1}
    assert make.cancelled == 0


async def test_the_last_to_leave_stops_the_making_and_a_newcomer_begins_again() -> None:
    cache, make = fresh()
    leavers = [asyncio.create_task(get(cache, make, "1")) for _ in range(2)]
    await make.began.wait()
    for task in leavers:
        task.cancel()
    await asyncio.gather(*leavers, return_exceptions=True)
    newcomer = asyncio.create_task(get(cache, make, "1"))
    make.gate.set()
    assert await newcomer == 1
    assert make.cancelled == 1
    assert make.calls == {"1": 2}


async def test_a_failure_fails_its_waiters_and_is_tried_again() -> None:
    cache, make = fresh()
    make.failing.add("3")
    make.gate.set()
    results = await asyncio.gather(*(get(cache, make, "3") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, VisionFailed) for result in results)
    assert make.calls == {"3": 1}
    make.failing.clear()
    assert await get(cache, make, "3") == 3


async def test_the_least_recently_used_goes_first() -> None:
    cache, make = fresh(capacity=2 * KIB)
    make.gate.set()
    for key in ("1", "2", "1", "3"):
        await get(cache, make, key)
    assert "1" in cache
    assert "2" not in cache
    assert "3" in cache
    assert cache.nbytes == 2 * KIB


async def test_what_is_larger_than_the_cache_is_served_but_not_kept() -> None:
    cache, make = fresh(capacity=KIB - 1)
    make.gate.set()
    assert await get(cache, make, "1") == 1
    assert cache.nbytes == 0


async def test_closing_cancels_what_is_under_way() -> None:
    cache, make = fresh()
    task = asyncio.create_task(get(cache, make, "1"))
    await make.began.wait()
    await cache.aclose()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert make.cancelled == 1


@given(asks=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30), capacity=st.integers(0, 4))
async def test_any_order_of_asking_and_leaving(asks: list[tuple[int, bool]], capacity: int) -> None:
    cache, make = fresh(capacity * KIB)
    tasks = []
    for number, (key, leaves) in enumerate(asks):
        task = asyncio.create_task(get(cache, make, str(key)))
        tasks.append((key, leaves, task))
        if number == len(asks) // 2:
            make.gate.set()
        await asyncio.sleep(0)
        if leaves:
            task.cancel()
    make.gate.set()
    outcomes = await asyncio.gather(*(task for _, _, task in tasks), return_exceptions=True)
    for (key, leaves, _), outcome in zip(tasks, outcomes, strict=True):
        assert outcome == key or (leaves and isinstance(outcome, asyncio.CancelledError))
    assert cache.nbytes <= capacity * KIB


async def test_what_is_discarded_in_the_making_is_not_remembered() -> None:
    cache, make = fresh()
    first = asyncio.create_task(get(cache, make, "1"))
    await make.began.wait()
    cache.discard("1")
    second = asyncio.create_task(get(cache, make, "1"))
    await asyncio.sleep(0)
    make.gate.set()
    assert (await first, await second) == (1, 1)
    assert make.calls == {"1": 2}, "who asks afterwards gets one of his own"
    assert await get(cache, make, "1") == 1
    assert (make.calls["1"], cache.nbytes) == (2, KIB)
