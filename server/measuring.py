"""What `r2sm capacity --measure` asks a running server, and how fast that answers."""

from __future__ import annotations

import asyncio
import platform
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from engines.capacity.simulation import Work, throughput
from engines.capacity.stages import Measured, StageTimes, fit
from engines.demo.language import ask
from engines.demo.scenes import render_scene
from engines.evaluation.datasets.demo import encode_png
from server.client import AnyImage, SegmentClient, uploaded

SCENES = 50_000_000
"""The lowest seed of the scenes that are asked about; each time others, which no cache remembers."""
GROUP = 8
"""Requests that set out together, to show what company in a batch costs."""
GROUPS = 5
LOADS = (8, 16)
"""Clients at once, for the loads at which simulation and server are compared."""
TURNS = 12
"""Questions of each of them."""
SIMULATED = 2000


@dataclass(frozen=True, slots=True)
class Overload:
    """Answers a second of so many clients that ask again at once, and what the simulation foretells."""

    clients: int
    rate: float
    simulated: float

    @property
    def off(self) -> float:
        """How far the simulation is from the server, as a share of what that does."""
        return self.simulated / self.rate - 1


async def measured(client: SegmentClient, cores: int | None) -> StageTimes:
    """Stage times of a server that has nothing else to do.

    First whole requests, one by one. Then requests about pictures that were uploaded, and so encoded, before, and
    with the mask's type: fewer stages overlap, so they wait less for each other's cores. At last the same ones again,
    a group at a time: all but the writing is remembered, so a step that takes longer does so for its company.

    Raises:
        SegmentFailed: it is away or fails.
        ValueError: it never reasoned.
    """
    alone, _ = await asked(client, 1, await drawn(GROUPS * GROUP))
    told: list[Measured] = []
    company: list[list[Measured]] = []
    for _ in range(GROUPS):
        known = [(uploaded((await client.upload(image)).id), prompt) for image, prompt in await drawn(GROUP)]
        told += (await asked(client, 1, known, mask_type="modal"))[0]
        company.append((await asked(client, GROUP, known, mask_type="modal"))[0])
    times = fit(platform.processor() or platform.machine(), alone, told, company)
    return times.model_copy(update={"cores": cores})


async def overload(client: SegmentClient, times: StageTimes, clients: int) -> Overload:
    """A real overload, and the same one simulated. Raises SegmentFailed."""
    answered, rate = await asked(client, clients, await drawn(clients * TURNS))
    tokens = sum(one.reasoning_tokens for one in answered) / len(answered)
    return Overload(clients, rate, throughput(times, Work(max(1, round(tokens))), clients, SIMULATED))


async def asked(
    client: SegmentClient, clients: int, questions: Sequence[tuple[AnyImage, str]], **options: str
) -> tuple[list[Measured], float]:
    """Ask questions, so many at once: what was answered, and the requests a second while all clients were busy."""
    left = iter(questions)
    found: list[Measured] = []
    ended: list[float] = []

    async def one_after_the_other() -> None:
        for image, prompt in left:
            response = await client.segment(image, prompt, objects=1, **options)
            ended.append(time.perf_counter())
            found.append(Measured(response.timings_ms, response.usage.reasoning_tokens, len(response.masks)))

    await asyncio.gather(*(one_after_the_other() for _ in range(clients)))
    return found, steady_rate(ended, clients)


def steady_rate(ended: Sequence[float], clients: int) -> float:
    """Answers a second, from their times, of clients that ask again at once.

    Without each one's first answer, as they set out together, and without the end, when they have nothing left to ask.
    0 where nothing is left between.
    """
    between = ended[clients - 1 : len(ended) - clients]
    return (len(between) - 1) / (between[-1] - between[0]) if len(between) > 1 else 0.0


async def drawn(count: int) -> list[tuple[bytes, str]]:
    """Questions about new scenes. To draw one costs as much as to answer it: never while a clock runs."""
    first = SCENES + random.randrange(SCENES)
    return await asyncio.to_thread(lambda: [question(seed) for seed in range(first, first + count)])


def question(seed: int) -> tuple[bytes, str]:
    """A scene as a PNG file, and a prompt about it."""
    scene = render_scene(seed)
    return encode_png(scene.image), ask(scene, random.Random(seed), 1)[0].prompt
