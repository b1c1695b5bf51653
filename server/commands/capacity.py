"""``r2sm capacity``: how many replicas and GPUs a rate needs, from measured stage times."""

from __future__ import annotations

import asyncio
import io
import platform
import random
import time
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from pydantic import ValidationError

from engines.capacity.plan import CapacityPlan, Goal, plan
from engines.capacity.simulation import Work, throughput
from engines.capacity.stages import Measured, StageTimes, fit
from engines.demo.language import ask
from engines.demo.scenes import render_scene
from engines.errors import EngineError
from server.client import SegmentClient, SegmentFailed

SCENES = 50_000_000
"""The lowest seed of the scenes that are asked about while measuring; each time others, which no cache remembers."""
REQUESTS = 40
FEW = 4
MANY = 16


def capacity(
    rate: Annotated[float | None, typer.Option(min=0.001, help="Requests a second.")] = None,
    slo: Annotated[float, typer.Option(min=0.001, help="Seconds to the first mask, for 95 %.")] = 2.5,
    objects: Annotated[int, typer.Option(min=1, max=8, help="Objects a request finds.")] = 1,
    reasoning_tokens: Annotated[int, typer.Option(min=1, help="Tokens of reasoning.")] = 80,
    cached: Annotated[float, typer.Option(min=0, max=1, help="Share of images seen before.")] = 0.0,
    utilisation: Annotated[float, typer.Option(min=0.1, max=0.95, help="How busy any part may be.")] = 0.7,
    reason_gpus: Annotated[int, typer.Option(min=0, help="GPUs of a reason replica.")] = 1,
    concentrate_gpus: Annotated[int, typer.Option(min=0, help="GPUs of a concentrate replica.")] = 1,
    gateway_gpus: Annotated[int, typer.Option(min=0, help="GPUs, or slices, of a gateway.")] = 1,
    stages: Annotated[Path, typer.Option(help="Stage times: read, or written by --measure.")] = Path(
        "stages.json"
    ),
    measure: Annotated[str | None, typer.Option(help="Measure the idle server at this URL first.")] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="--measure: cores that all its parts share.")
    ] = None,
) -> None:
    """Plan replicas and GPUs by simulating the queues; with --measure, measure the stage times before that."""
    try:
        if measure is not None:
            times = asyncio.run(measured(measure, cores))
            stages.write_text(times.model_dump_json(indent=2) + "\n", encoding="utf-8")
        else:
            times = StageTimes.model_validate_json(stages.read_bytes())
        if rate is not None:
            gpus = {"gateway": gateway_gpus, "reason": reason_gpus, "concentrate": concentrate_gpus}
            goal = Goal(rate, slo, utilisation=utilisation)
            typer.echo(as_text(plan(times, Work(reasoning_tokens, objects, cached), goal, gpus)))
    except (EngineError, SegmentFailed, OSError, ValidationError, ValueError) as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error


def as_text(found: CapacityPlan) -> str:
    """A plan as a table."""
    goal = found.goal
    lines = [f"{'':12} {'replicas':>8} {'GPUs':>6} {'at most/s':>10} {'head-room':>10} {'p95 s':>8}"]
    lines += [
        f"{part.name:12} {part.replicas:8} {part.gpus:6} {part.limit:10.1f} {part.headroom(goal.rate):10.0%}"
        f" {part.seconds:8.3f}"
        for part in found.parts
    ]
    lines += [
        f"first mask   p50 {found.median:.3f} s, p95 {found.slowest:.3f} s, objective {goal.slo:g} s",
        f"GPUs         {found.gpus}",
        f"in flight    {found.in_flight} in each gateway: R2SM_MAX_IN_FLIGHT must not be less",
    ]
    return "\n".join(lines)


async def measured(url: str, cores: int | None) -> StageTimes:
    """Ask a server about demo scenes, one by one and a few at once, and compare what follows with many at once.

    Raises:
        SegmentFailed: it is away or fails.
        ValueError: it never reasoned.
    """
    first = SCENES + random.randrange(SCENES)
    async with SegmentClient(url) as client:
        alone, _ = await asked(client, 1, first)
        together, _ = await asked(client, FEW, first + REQUESTS)
        times = fit(platform.processor() or platform.machine(), alone, together, FEW)
        times = times.model_copy(update={"cores": cores})
        answered, rate = await asked(client, MANY, first + 2 * REQUESTS)
    tokens = sum(one.reasoning_tokens for one in answered) / len(answered)
    foretold = throughput(times, Work(max(1, round(tokens))), MANY, 2000)
    typer.echo(
        f"{MANY} clients at once: {rate:.2f} requests/s, simulated {foretold:.2f} ({foretold / rate - 1:+.0%})"
    )
    return times


async def asked(client: SegmentClient, clients: int, first: int) -> tuple[list[Measured], float]:
    """Ask about `REQUESTS` scenes from seed `first` on, so many at once: what was answered, requests a second."""
    numbers = iter(range(first, first + REQUESTS))
    found: list[Measured] = []

    async def one_after_the_other() -> None:
        for number in numbers:
            image, prompt = await asyncio.to_thread(question, number)
            response = await client.segment(image, prompt, objects=1)
            found.append(Measured(response.timings_ms, response.usage.reasoning_tokens, len(response.masks)))

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(clients)))
    return found, len(found) / (time.perf_counter() - began)


def question(seed: int) -> tuple[bytes, str]:
    """A scene as a PNG file, and a prompt about it."""
    scene = render_scene(seed)
    file = io.BytesIO()
    Image.fromarray(scene.image).save(file, "PNG")
    return file.getvalue(), ask(scene, random.Random(seed), 1)[0].prompt
