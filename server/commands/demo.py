"""``r2sm demo``: serves the demo model and shows what it does with sample scenes."""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from engines.errors import EngineError
from engines.evaluation.samples import SAMPLES, Sample
from engines.mllm.launcher import ServerStatus
from server.client import SegmentClient, SegmentFailed
from server.commands.paths import make_folder, require_writable_file
from server.commands.serve import START_SECONDS, settings_or_exit
from server.overlay import draw_overlay
from server.running import run_gateway
from server.schemas import SegmentResponse
from server.settings import Settings
from server.telemetry.logs import start_logging

WIDTH = 118  # characters of the table
WORDS_SHOWN = 90  # characters of the reasoning
REPEAT_SECONDS = 5.0  # how often the progress is told when nothing changes
Answered = list[tuple[Sample, SegmentResponse]]


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the samples.")] = False,
    port: Annotated[int | None, typer.Option(help="The port to listen on. [8000]")] = None,
    out: Annotated[Path, typer.Option(help="Where the pictures and the logs go.")] = Path("out"),
) -> None:
    """Serve the demo model, segment sample scenes, write overlays, print a table, and go on serving."""
    settings = settings_or_exit(port=port, log_dir=out)
    make_folder(out, "--out")
    log = out / "gateway.log"
    require_writable_file(log, "--out")
    logging.basicConfig(filename=log, filemode="w")  # not between the lines of the table
    start_logging(settings.log_level, settings.log_format)
    logging.getLogger("engines.vision").addHandler(
        logging.StreamHandler(sys.stdout)
    )  # exports, once, for a while
    try:
        uvloop.run(run_demo(settings, once, out))
    except (EngineError, SegmentFailed, OSError) as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo("stopped")
        raise typer.Exit(130) from None


async def run_demo(settings: Settings, once: bool, out: Path) -> None:
    """The demo; Ctrl-C and SIGTERM end it with all it started.

    Raises:
        EngineError, OSError: the server cannot be started.
        SegmentFailed: it did not answer a sample.
    """
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    typer.echo(f"the logs go to {out}/")
    async with AsyncExitStack() as stack:
        async with telling_progress("loading the bundle and the vision engine") as tell:
            gateway = await stack.enter_async_context(run_gateway(settings))
            await gateway.wait_ready(START_SECONDS, lambda servers: tell(_stages(servers)))
        async with SegmentClient(gateway.url) as client:
            answered = [(sample, await show(client, sample, out)) for sample in SAMPLES]
        Console(width=WIDTH).print(as_table(answered))
        typer.echo(f"the scenes and their overlays are in {out}/")
        if not once:
            typer.echo(f"the playground is on {gateway.url}, the API on {gateway.url}/docs; Ctrl-C stops it")
            await gateway.wait_stopped()


@asynccontextmanager
async def telling_progress(first: str) -> AsyncIterator[Callable[[str], None]]:
    """Gives a function that prints what goes on, when that changes; every few seconds it is said again."""
    began, current = time.monotonic(), first

    def tell(text: str, *, again: bool = False) -> None:
        nonlocal current
        if again or text != current:
            current = text
            typer.echo(f"{time.monotonic() - began:4.0f} s  {text}")

    async def repeat() -> None:
        while True:
            tell(current, again=True)
            await asyncio.sleep(REPEAT_SECONDS)

    repeating = asyncio.create_task(repeat())
    try:
        yield tell
    finally:
        repeating.cancel()
        await asyncio.gather(repeating, return_exceptions=True)
    tell("ready")


def _stages(servers: tuple[ServerStatus, ...]) -> str:
    return "vLLM: " + ", ".join(f"{one.role} is {one.stage}" for one in servers)


async def show(client: SegmentClient, sample: Sample, out: Path) -> SegmentResponse:
    """Segment a sample; write its scene and its overlay into the folder `out`."""
    data = sample.image()
    response = await client.segment(
        data, sample.prompt, mask_type=sample.mask_type, include=["reasoning", "heatmap"]
    )
    scene = Image.open(io.BytesIO(data))
    scene.save(out / f"{sample.name}.png")
    overlay = out / f"{sample.name}_overlay.png"
    draw_overlay(scene, response).save(overlay)
    typer.echo(f"wrote {overlay}")
    return response


def as_table(answered: Answered) -> Table:
    """The samples and their answers."""
    table = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False)
    for title in ("prompt", "decision", "area, px", "reasoning begins", "ms by stage"):
        table.add_column(title, justify="right" if title == "area, px" else "left")
    for sample, response in answered:
        decision = response.decision
        table.add_row(
            sample.prompt,
            f"{decision.mask_type} {decision.confidence:.2f}",
            "\n".join(f"{mask.mask_type} {mask.area:,}" for mask in response.masks) or "no such object",
            textwrap.shorten(response.reasoning or "", WORDS_SHOWN, placeholder=" …"),
            "  ".join(f"{stage} {spent:.0f}" for stage, spent in response.timings_ms.items()),
        )
    return table
