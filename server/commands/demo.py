"""``r2sm demo``: serves the demo model and shows what it does with sample scenes."""

from __future__ import annotations

import asyncio
import io
import textwrap
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from engines.evaluation.samples import SAMPLES, Sample
from server.child import HOST, ServerDied, child_server
from server.client import SegmentClient, SegmentFailed
from server.overlay import draw_overlay
from server.schemas import SegmentResponse

WIDTH = 118  # characters of the table
WORDS_SHOWN = 90  # characters of the reasoning
INCLUDE = ["reasoning", "heatmap"]


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the samples.")] = False,
    port: Annotated[int, typer.Option(help=f"The port on {HOST}.")] = 8000,
    out: Annotated[Path, typer.Option(help="Where the pictures and the server's log go.")] = Path("out"),
) -> None:
    """Serve the demo model, segment sample scenes, write overlays, print a table, and go on serving."""
    try:
        asyncio.run(run_demo(once, port, out))
    except (ServerDied, SegmentFailed) as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("stopped")


async def run_demo(once: bool, port: int, out: Path) -> None:
    """The demo. Raises ServerDied and SegmentFailed."""
    log = out / "serve.log"
    typer.echo(f"starting vLLM and the gateway on {HOST}:{port}; their log is {log}")
    async with child_server(port, log, typer.echo) as server, SegmentClient(server.url) as client:
        rows = [(sample, await show(client, sample, out)) for sample in SAMPLES]
        Console(width=WIDTH).print(as_table(rows))
        typer.echo(f"the scenes and their overlays are in {out}/")
        if not once:
            typer.echo(f"serving on {server.url}, its API is on {server.url}/docs; Ctrl-C stops it")
            raise ServerDied(f"the server ended with code {await server.ended()}; its log is {log}")


async def show(client: SegmentClient, sample: Sample, out: Path) -> SegmentResponse:
    """Segment a sample and write its scene and its overlay below `out`."""
    data = sample.image()
    response = await client.segment(data, sample.prompt, mask_type=sample.mask_type, include=INCLUDE)
    scene = Image.open(io.BytesIO(data))
    scene.save(out / f"{sample.name}.png")
    draw_overlay(scene, response).save(out / f"{sample.name}_overlay.png")
    typer.echo(f"wrote {out / f'{sample.name}_overlay.png'}")
    return response


def as_table(rows: list[tuple[Sample, SegmentResponse]]) -> Table:
    """The samples and their answers."""
    table = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False)
    for title in ("prompt", "decision", "area, px", "reasoning begins", "ms by stage"):
        table.add_column(title, justify="right" if title == "area, px" else "left")
    for sample, response in rows:
        decision = response.decision
        table.add_row(
            sample.prompt,
            f"{decision.mask_type} {decision.confidence:.2f}",
            "\n".join(f"{mask.mask_type} {mask.area:,}" for mask in response.masks) or "no such object",
            textwrap.shorten(response.reasoning or "", WORDS_SHOWN, placeholder=" …"),
            "  ".join(f"{stage} {spent:.0f}" for stage, spent in response.timings_ms.items()),
        )
    return table
