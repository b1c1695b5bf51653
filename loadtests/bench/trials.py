"""One round of the benchmark: every system on the same pictures and prompts, in turns."""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from engines.vision.runtimes.base import DecodeItem, VisionRuntime, blank_image
from loadtests.bench.figures import Pair, Pairs
from loadtests.bench.systems import System, Systems
from loadtests.drafts import timed
from loadtests.load.questions import Picture, as_new, demo_pictures
from server.client import SegmentClient
from server.events import MaskEvent, ReasoningDeltaEvent

PROMPTS = 4
FIRST_SCENE = 70_000_000
DECODER_RUNS = 5


@dataclass(frozen=True, slots=True)
class Size:
    """How much is asked: pictures in each part of a round, and clients at once."""

    requests: int
    clients: int


@dataclass(frozen=True, slots=True)
class Spell:
    """What a system did with many clients at once."""

    per_second: float
    median_ms: float


class Round:
    """One round's measurements, added to `pairs`. No system ever sees a file that another one has seen."""

    def __init__(self, number: int, systems: Systems, size: Size, pairs: Pairs) -> None:
        self._number = number
        self._systems = systems
        self._size = size
        self._pairs = pairs
        self._first = FIRST_SCENE + number * 10_000
        self._marks = 0

    async def run(self) -> None:
        """All parts."""
        whole = await self._one_client()
        await self._many_clients()
        await self._four_prompts()
        await self._parts(whole)
        await self._streams()
        await self._cpu()

    async def _one_client(self) -> float:
        """One request at a time, the systems in turns on each picture; the gateway's median in ms."""
        systems = self._systems
        compared: list[System] = [
            systems.gateway,
            systems.reference,
            systems.litserve,
            systems.fastapi,
            systems.script,
        ]
        took: dict[str, list[float]] = {system.name: [] for system in compared}
        for place, picture in enumerate(await self._pictures(0, self._size.requests, 1)):
            for system in _turned(compared, self._number + place):
                image = self._new(picture)
                took[system.name].append(await milliseconds(system, image, picture.prompt(0)))
        medians = {name: median(times) for name, times in took.items()}
        for name in medians.keys() - {"gateway"}:
            self._add(f"one_client_{name}", medians["gateway"], medians[name])
        return medians["gateway"]

    async def _many_clients(self) -> None:
        systems = self._systems
        asked = await self._pictures(1_000, max(self._size.requests, self._size.clients), 1)
        found = await self._spells(
            [systems.gateway, systems.reference, systems.litserve, systems.fastapi, systems.script],
            lambda: [(self._new(picture), picture.prompt(0)) for picture in asked],
        )
        for name in ("reference", "litserve", "fastapi"):
            self._add(f"many_clients_{name}", found["gateway"].per_second, found[name].per_second)
        self._add("many_clients_script", found["gateway"].median_ms, found["script"].median_ms)

    async def _four_prompts(self) -> None:
        systems = self._systems
        count = -(-max(self._size.requests, self._size.clients) // PROMPTS)
        asked = await self._pictures(2_000, count, PROMPTS)

        def drawn() -> list[tuple[bytes, str]]:
            images = [(self._new(picture), picture) for picture in asked]
            return [(image, picture.prompt(number)) for image, picture in images for number in range(PROMPTS)]

        found = await self._spells([systems.gateway, systems.reference, systems.litserve], drawn)
        for name in ("reference", "litserve"):
            self._add(f"four_prompts_{name}", found["gateway"].per_second, found[name].per_second)

    async def _spells(
        self, compared: Sequence[System], drawn: Callable[[], list[tuple[bytes, str]]]
    ) -> dict[str, Spell]:
        """One system after another, each with all clients; the reference takes them one by one."""
        found = {}
        for system in _turned(compared, self._number):
            clients = 1 if system is self._systems.reference else self._size.clients
            found[system.name] = await spell(system, drawn(), clients)
        return found

    async def _parts(self, whole: float) -> None:
        """The raw parts alone, over the whole answer."""
        pictures = await self._pictures(3_000, self._size.requests, 1)
        found = [await self._systems.script.timed_parts(self._new(one), one.prompt(0)) for one in pictures]
        for part in ("reason", "concentrate", "encode", "decode"):
            self._add(f"part_{part}", median(took[part] for took in found) * 1000, whole)

    async def _streams(self) -> None:
        """What only a stream shows: the last token to the mask, drafts, and a second prompt on an image."""
        client, tails, runs = self._systems.gateway.client, [], []
        firsts, seconds, known, new = [], [], [], []
        pictures = await self._pictures(4_000, self._size.requests, 3)
        unseen = await self._pictures(4_500, self._size.requests, 1)
        for picture, other in zip(pictures, unseen, strict=True):
            image = self._new(picture)
            first, tail = await to_the_mask(client, image, picture.prompt(0))
            second, _ = await to_the_mask(client, image, picture.prompt(1))
            tails.append(tail)
            runs.append(await asyncio.to_thread(decoder_run, self._systems.runtime))
            firsts.append(first)
            seconds.append(second)
            known.append(await timed(client, image, picture.prompt(2), drafts=1))
            new.append(await timed(client, self._new(other), other.prompt(0), drafts=1))
        self._add("last_token_to_mask", _median(tails), _median(runs))
        self._add("second_prompt", _median(seconds), _median(firsts))
        for name, found in (("draft_known", known), ("draft_new", new)):
            drafted = [took for took in found if not math.isnan(took.draft / took.mask)]
            self._add(
                name,
                _median([took.draft * 1000 for took in drafted]),
                _median([took.mask * 1000 for took in drafted]),
            )

    async def _cpu(self) -> None:
        """The gateway's CPU on images that it knows, and that of the packages it is made of, alone.

        Nothing is encoded, and the decoder's share is measured here.
        """
        gateway, bare = self._systems.gateway, self._systems.bare
        pictures = await self._pictures(5_000, self._size.requests, 2)
        images = [self._new(picture) for picture in pictures]

        async def by_gateway(prompt: int) -> None:
            for image, picture in zip(images, pictures, strict=True):
                await gateway.client.segment(image, picture.prompt(prompt), objects=1)

        async def by_bare(prompt: int) -> None:
            for place, image in enumerate(images):
                await bare.ask(f"{place}.{prompt}", image)

        for place, (image, picture) in enumerate(zip(images, pictures, strict=True)):
            for prompt in range(2):
                await bare.keep(f"{place}.{prompt}", image, picture.prompt(prompt))
        spent = await _cpu_ms(gateway.pid, by_gateway, len(images))
        alone = await _cpu_ms(bare.pid, by_bare, len(images))
        decoder = await asyncio.to_thread(decoder_cpu_ms, self._systems.runtime)
        own = max(0.0, spent - decoder)
        self._add("gateway_cpu", own, spent)
        self._add("gateway_cpu_bare", own, alone)

    async def _pictures(self, offset: int, count: int, prompts: int) -> list[Picture]:
        return await asyncio.to_thread(demo_pictures, count, prompts, self._first + offset)

    def _new(self, picture: Picture) -> bytes:
        self._marks += 1
        return as_new(picture.data, f"{os.getpid()}.{self._number}.{self._marks}")

    def _add(self, figure: str, value: float, against: float) -> None:
        """What could not be measured in this round (a model that made no mask) is left out."""
        if math.isfinite(value) and math.isfinite(against) and against > 0:
            self._pairs.setdefault(figure, []).append(Pair(value, against))


async def milliseconds(system: System, image: bytes, prompt: str) -> float:
    """How long one answer takes."""
    began = time.perf_counter()
    await system.ask(image, prompt)
    return (time.perf_counter() - began) * 1000


async def spell(system: System, asked: Sequence[tuple[bytes, str]], clients: int) -> Spell:
    """All requests by so many clients, each of which asks again as soon as it is answered."""
    waiting, took = iter(asked), []

    async def client() -> None:
        for image, prompt in waiting:
            took.append(await milliseconds(system, image, prompt))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Spell(len(asked) / (time.perf_counter() - began), median(took))


async def to_the_mask(client: SegmentClient, image: bytes, prompt: str) -> tuple[float, float]:
    """Milliseconds from the request, and from the last piece of reasoning, to the first mask; NaN without a mask."""
    began = last = time.perf_counter()
    first = tail = math.nan
    async for event in client.stream(image, prompt, objects=1):
        now = time.perf_counter()
        if isinstance(event, ReasoningDeltaEvent):
            last = now
        elif isinstance(event, MaskEvent) and math.isnan(first):
            first, tail = (now - began) * 1000, (now - last) * 1000
    return first, tail


def decoder_run(runtime: VisionRuntime) -> float:
    """The median of a few runs of the decoder on one vector, in ms."""
    item = _blank_item(runtime)
    took = []
    for _ in range(DECODER_RUNS):
        began = time.perf_counter()
        runtime.decode([item])
        took.append((time.perf_counter() - began) * 1000)
    return median(took)


def decoder_cpu_ms(runtime: VisionRuntime) -> float:
    """CPU time of one run, over all threads of this process, which does nothing else meanwhile."""
    item = _blank_item(runtime)
    before = time.process_time()
    for _ in range(DECODER_RUNS):
        runtime.decode([item])
    return (time.process_time() - before) * 1000 / DECODER_RUNS


async def _cpu_ms(pid: int, ask: Callable[[int], Awaitable[None]], requests: int) -> float:
    """A process's CPU time for each of the second prompts to images that the first ones have made known."""
    await ask(0)
    before = process_cpu_ms(pid)
    await ask(1)
    return (process_cpu_ms(pid) - before) / requests


def process_cpu_ms(pid: int) -> float:
    """CPU time that a process's threads have had, those that have ended among them (clock_getcpuclockid(3))."""
    clock = ctypes.c_int()
    if error := ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise ProcessLookupError(error, os.strerror(error))
    return time.clock_gettime(clock.value) * 1000


def _blank_item(runtime: VisionRuntime) -> DecodeItem:
    picture = blank_image(runtime.config)
    [embedding] = runtime.encode([picture])
    return DecodeItem(embedding, np.ones(runtime.config.vector_dim, np.float32), picture.size)


def _turned(systems: Sequence[System], by: int) -> list[System]:
    """In another order each time, so that nobody is always first."""
    place = by % len(systems)
    return [*systems[place:], *systems[:place]]


def _median(values: Sequence[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return median(numbers) if numbers else math.nan
