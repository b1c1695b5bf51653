"""``r2sm capacity``: how many replicas and GPUs a rate needs, from measured stage times."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from engines.capacity.plan import CapacityPlan, Goal, plan
from engines.capacity.simulation import Work
from engines.capacity.stages import StageTimes
from engines.errors import EngineError
from server.client import SegmentClient, SegmentFailed
from server.commands.paths import require_writable_file
from server.measuring import LOADS, measured, overload

FAR_OFF = 0.2


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
    key: Annotated[str | None, typer.Option(help="--measure: the API key.", envvar="R2SM_API_KEY")] = None,
) -> None:
    """Plan replicas and GPUs by simulating the queues; with --measure, measure the stage times before that."""
    if measure is not None:
        require_writable_file(stages, "--stages")
    try:
        if measure is not None:
            times = asyncio.run(stage_times(measure, key, cores))
            stages.write_text(times.model_dump_json(indent=2) + "\n", encoding="utf-8")
        else:
            times = StageTimes.model_validate_json(stages.read_bytes())
        if objects > 1 and not (times.concentrate_object_ms or times.decode_object_ms):
            typer.echo(
                f"r2sm: {stages} does not say what further objects cost, as --measure asks for one: here they are free",
                err=True,
            )
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


async def stage_times(url: str, key: str | None, cores: int | None) -> StageTimes:
    """Measure a server, and print how far what follows for overloads is from what real ones get.

    Raises:
        SegmentFailed: it is away or fails.
        ValueError: it never reasoned.
    """
    async with SegmentClient(url, key=key) as client:
        times = await measured(client, cores)
        for clients in LOADS:
            found = await overload(client, times, clients)
            typer.echo(
                f"{clients} clients at once: {found.rate:.2f} requests/s,"
                f" simulated {found.simulated:.2f} ({found.off:+.0%})"
            )
            if abs(found.off) > FAR_OFF:
                typer.echo(
                    f"r2sm: warning: more than {FAR_OFF:.0%} off: do not plan with this. Was the server idle, and"
                    " --cores right?",
                    err=True,
                )
    return times
