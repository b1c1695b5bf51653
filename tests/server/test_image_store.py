"""ImageStore: bounded by bytes and by time, and by number in what it owes to other replicas."""

from __future__ import annotations

from typing import cast

import pytest

from server.cache.redis_level import RedisLevel
from server.errors import RequestRejected
from server.image_store import ENTRY_BYTES, MOST_OWED, ImageStore


class AwayAndBack:
    """A Redis that comes back and has forgotten everything."""

    away = True

    async def first_bytes(self, key: str, nbytes: int, cache: str) -> bytes | None:
        return None if self.away else b""

    async def put(self, key: str, value: bytes, seconds: float | None = None) -> bool:
        return not self.away

    async def discard(self, key: str) -> bool:
        return not self.away


async def test_the_store_is_bounded_by_bytes_and_by_time() -> None:
    now = 100.0
    store = ImageStore(2 * ENTRY_BYTES + 10, 60, clock=lambda: now)
    for id in "abc":
        await store.put(id, b"four", 1, 1)
        await store.get("a" if id != "c" else "c")
    assert store.nbytes == 2 * ENTRY_BYTES + 8
    with pytest.raises(RequestRejected):
        await store.get("b")
    now = 130.0
    assert (await store.put("a", b"four", 1, 1)).expires_at == 190
    now = 165.0
    with pytest.raises(RequestRejected):
        await store.get("c")
    assert ((await store.get("a")).id, store.nbytes) == ("a", ENTRY_BYTES + 4)
    await store.put("d", bytes(2 * ENTRY_BYTES), 1, 1)
    assert store.nbytes == ENTRY_BYTES + 4, "what does not fit is not kept, and drives nothing out"


async def test_images_that_nobody_asks_for_are_swept_out() -> None:
    now = 100.0
    store = ImageStore(10 * ENTRY_BYTES, 90, clock=lambda: now)
    await store.put("a", b"four", 1, 1)
    now = 200.0
    await store.put("b", b"four", 1, 1)
    assert store.nbytes == ENTRY_BYTES + 4


async def test_a_mark_that_could_not_be_put_is_owed_as_long_as_images_live() -> None:
    now, away = 100.0, AwayAndBack()
    store = ImageStore(10 * ENTRY_BYTES, 60, cast(RedisLevel, away), clock=lambda: now)
    ids = [f"sha256:{number:064}" for number in range(MOST_OWED + 1)]
    for id in ids:
        with pytest.raises(RequestRejected, match="may still know"):
            await store.discard(id)
    await store.put(ids[1], bytes(10 * ENTRY_BYTES), 1, 1)
    away.away = False
    await store.require(ids[-1])
    with pytest.raises(RequestRejected, match="never uploaded"):
        await store.require(ids[0])  # so many are not remembered
    with pytest.raises(RequestRejected, match="never uploaded"):
        await store.require(ids[1])  # it was uploaded again, though it is too large to be kept
    now = 160.0
    with pytest.raises(RequestRejected, match="never uploaded"):
        await store.require(ids[-1])
