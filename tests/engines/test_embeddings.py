"""EmbeddingCache: one encode per image, bounded memory, work that survives one client's leaving."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.embeddings import EmbeddingCache
from engines.errors import VisionFailed

KIB = 1024


class Encoder:
    """Encodes 1 KiB per image when its gate opens; counts what it did."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.began = asyncio.Event()
        self.calls: Counter[str] = Counter()
        self.cancelled = 0
        self.failing: set[str] = set()

    async def __call__(self, digest: str) -> NDArray[np.uint8]:
        self.calls[digest] += 1
        self.began.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if digest in self.failing:
            raise VisionFailed(digest)
        return np.full(KIB, int(digest), np.uint8)


def make(capacity: int = 8 * KIB) -> tuple[EmbeddingCache[NDArray[np.uint8]], Encoder]:
    return EmbeddingCache(capacity), Encoder()


async def get(cache: EmbeddingCache[NDArray[np.uint8]], encode: Encoder, digest: str) -> int:
    return int((await cache.get_or_encode(digest, lambda: encode(digest)))[0])


async def test_one_encode_however_many_ask() -> None:
    cache, encode = make()
    tasks = [asyncio.create_task(get(cache, encode, "7")) for _ in range(20)]
    await asyncio.sleep(0)
    encode.gate.set()
    assert await asyncio.gather(*tasks) == [7] * 20
    assert await get(cache, encode, "7") == 7
    assert encode.calls == {"7": 1}
    assert (cache.counts.encodes, cache.counts.joined, cache.counts.hits) == (1, 19, 1)


async def test_the_one_who_began_may_leave() -> None:
    cache, encode = make()
    first = asyncio.create_task(get(cache, encode, "1"))
    await asyncio.sleep(0)
    second = asyncio.create_task(get(cache, encode, "1"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    encode.gate.set()
    assert await second == 1
    assert encode.calls == {"1": 1}
    assert encode.cancelled == 0


async def test_the_last_to_leave_stops_the_encode_and_a_newcomer_begins_again() -> None:
    cache, encode = make()
    leavers = [asyncio.create_task(get(cache, encode, "1")) for _ in range(2)]
    await encode.began.wait()
    for task in leavers:
        task.cancel()
    await asyncio.gather(*leavers, return_exceptions=True)
    newcomer = asyncio.create_task(get(cache, encode, "1"))
    encode.gate.set()
    assert await newcomer == 1
    assert encode.cancelled == 1
    assert encode.calls == {"1": 2}


async def test_a_failed_encode_fails_its_waiters_and_is_tried_again() -> None:
    cache, encode = make()
    encode.failing.add("3")
    encode.gate.set()
    results = await asyncio.gather(*(get(cache, encode, "3") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, VisionFailed) for result in results)
    assert encode.calls == {"3": 1}
    encode.failing.clear()
    assert await get(cache, encode, "3") == 3


async def test_the_least_recently_used_goes_first() -> None:
    cache, encode = make(capacity=2 * KIB)
    encode.gate.set()
    for digest in ("1", "2", "1", "3"):
        await get(cache, encode, digest)
    assert "1" in cache
    assert "2" not in cache
    assert "3" in cache
    assert cache.nbytes == 2 * KIB


async def test_what_is_larger_than_the_cache_is_served_but_not_kept() -> None:
    cache, encode = make(capacity=KIB - 1)
    encode.gate.set()
    assert await get(cache, encode, "1") == 1
    assert cache.nbytes == 0


async def test_closing_cancels_what_is_under_way() -> None:
    cache, encode = make()
    task = asyncio.create_task(get(cache, encode, "1"))
    await encode.began.wait()
    await cache.aclose()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert encode.cancelled == 1


@given(asks=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30), capacity=st.integers(0, 4))
async def test_any_order_of_asking_and_leaving(asks: list[tuple[int, bool]], capacity: int) -> None:
    cache, encode = make(capacity * KIB)
    tasks = []
    for number, (digest, leaves) in enumerate(asks):
        task = asyncio.create_task(get(cache, encode, str(digest)))
        tasks.append((digest, leaves, task))
        if number == len(asks) // 2:
            encode.gate.set()
        await asyncio.sleep(0)
        if leaves:
            task.cancel()
    encode.gate.set()
    outcomes = await asyncio.gather(*(task for _, _, task in tasks), return_exceptions=True)
    for (digest, leaves, _), outcome in zip(tasks, outcomes, strict=True):
        assert outcome == digest or (leaves and isinstance(outcome, asyncio.CancelledError))
    assert cache.nbytes <= capacity * KIB
