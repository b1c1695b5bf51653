"""Embeddings whose lease yields while they wait for their turn: what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from PIL import Image

from engines.batching import BatchLimits, MicroBatcher
from engines.cache.codec import encode
from engines.cache.observer import CountingObserver
from engines.cache.shared import Claim, Leased
from engines.embeddings import Embeddings, EncoderIdentity, SharedEmbeddings
from engines.images import ImagePreparer
from engines.mllm.image import MllmImageConfig
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import Embedding
from tests.shared_level import InMemory
from tests.stand_ins import TINY_VISION
from tests.waiting import until

PREPARER = ImagePreparer(MllmImageConfig(), TINY_VISION.image_size)
IMAGE, OTHER = (PREPARER.prepare(Image.new("RGB", (12, 8), color), color) for color in ("red", "blue"))
ENCODER = EncoderIdentity(b"encoder".ljust(32), ((32, 8, 8),))


class Case:
    """A replica with a shared level; its encoder, which takes one image at a time, waits for the gate."""

    def __init__(self, level: InMemory) -> None:
        self.level = level
        self.gate = asyncio.Event()
        self.encodes = 0
        self.counts = CountingObserver()
        self.queue = MicroBatcher(self._encode, BatchLimits(max_size=1, max_wait=0))
        self.embeddings = Embeddings(self.queue, 1 << 20, SharedEmbeddings(level, ENCODER), self.counts)

    async def _encode(self, images: list[Prepared]) -> list[Embedding]:
        await self.gate.wait()
        self.encodes += len(images)
        return [Embedding(np.zeros(ENCODER.shapes[0], np.float32)) for _ in images]


@asynccontextmanager
async def busy(level: InMemory) -> AsyncIterator[Case]:
    """A replica that encodes another image already."""
    case = Case(level)
    async with asyncio.timeout(60):
        running = asyncio.create_task(case.queue.submit(OTHER.vision))
        await until(lambda: case.queue.pending == 0)
        yield case
        await running
    await case.embeddings.aclose()


class SlowToLease(InMemory):
    """Its answer to a claim is on its way until it may come."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asyncio.Event()

    async def claim(self, key: str, *, yielding: bool = False, again: bool = False) -> Claim:
        claim = await super().claim(key, yielding=yielding, again=again)
        await self.answer.wait()
        return claim


async def test_a_lease_that_comes_after_somebody_in_a_hurry_yields_no_more() -> None:
    level = SlowToLease()
    async with busy(level) as case:
        asking = [asyncio.create_task(case.embeddings.get_or_encode(IMAGE, patient=True))]
        await until(lambda: level.yielding)
        asking.append(asyncio.create_task(case.embeddings.get_or_encode(IMAGE)))
        await asyncio.sleep(0)
        level.answer.set()
        await until(lambda: case.queue.pending == 1)
        await until(lambda: not level.yielding, 5.0)
        case.gate.set()
        await asyncio.gather(*asking)
    assert case.encodes == 2


async def test_a_look_up_whose_lease_goes_to_another_counts_once() -> None:
    level = InMemory()
    async with busy(level) as case:
        asking = asyncio.create_task(case.embeddings.get_or_encode(IMAGE, patient=True))
        await until(lambda: case.queue.pending == 1)
        taken = await level.claim("key")
        assert isinstance(taken, Leased)
        case.gate.set()
        await until(lambda: case.queue.pending == 0)
        made = (np.ones(ENCODER.shapes[0], np.float32),)
        level.publish("key", lambda: encode(made, ENCODER.fingerprint), taken.token)
        assert (await asking).values.max() == 1
    assert (case.encodes, case.counts.misses, case.counts.hits) == (1, {}, {("embedding", "redis"): 1})


async def test_a_miss_is_counted_when_its_encode_begins() -> None:
    async with busy(InMemory()) as case:
        asking = asyncio.create_task(case.embeddings.get_or_encode(IMAGE, patient=True))
        await until(lambda: case.queue.pending == 1)
        assert case.counts.misses == {}
        case.gate.set()
        await asking
    assert case.counts.misses == {"embedding": 1}


async def run_out(level: InMemory) -> None:
    level.until = 0.0


async def take_and_leave(level: InMemory) -> None:
    taken = await level.claim("key")
    assert isinstance(taken, Leased)
    level.give_up("key", taken.token)


async def take_and_be_forgotten(level: InMemory) -> None:
    await level.claim("key")
    await level.forget("key")


@pytest.mark.parametrize(
    ("lose", "shared"), [(run_out, True), (take_and_leave, True), (take_and_be_forgotten, False)]
)
async def test_what_is_made_after_its_lease_was_lost_is_shared_unless_it_was_forgotten(
    lose: Callable[[InMemory], Awaitable[None]], shared: bool
) -> None:
    level = InMemory()
    async with busy(level) as case:
        asking = asyncio.create_task(case.embeddings.get_or_encode(IMAGE, patient=True))
        await until(lambda: case.queue.pending == 1)
        await lose(level)
        case.gate.set()
        await asking
    assert (case.encodes, level.value is not None) == (2, shared)
    assert await level.claim("key") != "busy", "the lease was given back"
