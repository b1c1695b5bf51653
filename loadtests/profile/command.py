"""``r2sm profile``: one request, then a batch of them, through a gateway in this process, and where their time went."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

from engines.errors import EngineError
from engines.evaluation.html import document, table
from loadtests.load.questions import Picture, demo_pictures
from loadtests.profile.drawing import Frame, flame_graph, hottest, timeline
from loadtests.profile.timeline import Bar, Spent, Timeline, spent
from server.client import SegmentClient, SegmentFailed
from server.commands.serve import START_SECONDS, settings_or_exit
from server.running import run_gateway
from server.settings import Settings
from server.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    import pyinstrument
    import pyinstrument.frame

FIRST_SCENE = 80_000_000
WARM_UP = 2
INTERVAL = 0.0005  # seconds between two looks
SHOWN = 15
OWN_TIME = "[self]"
"""How pyinstrument calls it."""
NOTE = (
    "The gateway's event loop, looked at every half millisecond; its engines run in other threads and processes, and "
    "while it waits for them it is in the event loop's own function. To be watched slows Python down: compare the "
    "parts of one picture, not pictures with what r2sm loadtest measures."
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was written, and what it says of the stages."""

    path: Path
    spent: list[Spent]


def profile(
    out: Annotated[Path, typer.Option(help="The folder for the pages.")] = Path("out/profile"),
    bundle: Annotated[Path | None, typer.Option(help="The bundle; the demo's by default.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Requests of the batch, all at once.")] = 8,
    reason_url: Annotated[str | None, typer.Option(help="A vLLM server that runs elsewhere.")] = None,
    concentrate_url: Annotated[str | None, typer.Option(help="A vLLM pooling server elsewhere.")] = None,
) -> None:
    """Write request.html and batch.html: the stages as a timeline, the gateway's own code as a flame graph.

    Prints each stage's time, the median over the requests.
    """
    if find_spec("pyinstrument") is None:
        typer.echo("r2sm: profiles need pyinstrument: pip install '.[loadtests]'", err=True)
        raise typer.Exit(1)
    given = {
        "bundle": bundle,
        "port": 0,
        "reason_url": [reason_url] if reason_url else None,
        "concentrate_url": [concentrate_url] if concentrate_url else None,
    }
    settings = settings_or_exit(**given)
    out.mkdir(parents=True, exist_ok=True)
    try:
        pages = uvloop.run(run_profile(settings, out, batch))
    except (EngineError, SegmentFailed, OSError) as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    for page in pages:
        typer.echo(str(page.path))
        for one in page.spent:
            typer.echo(f"  {one.name:14} {one.milliseconds:8.1f} ms {one.share:7.1%}")


async def run_profile(settings: Settings, out: Path, batch: int) -> list[Page]:
    """Start a gateway, warm it up, and write a page for one request and one for `batch` of them at once.

    Raises:
        EngineError, OSError: the gateway cannot be started.
        SegmentFailed: it did not answer.
    """
    heard = Timeline()
    pictures = demo_pictures(WARM_UP + 1 + batch, 1, FIRST_SCENE)
    async with run_gateway(settings, Telemetry(heard)) as gateway:
        await gateway.wait_ready(START_SECONDS)
        await asyncio.to_thread(ask, gateway.url, pictures[:WARM_UP])
        pages = []
        for name, asked in (("request", pictures[WARM_UP : WARM_UP + 1]), ("batch", pictures[WARM_UP + 1 :])):
            heard.bars.clear()
            root = await watched(gateway.url, asked)
            pages.append(Page(out / f"{name}.html", spent(heard.bars)))
            pages[-1].path.write_text(as_page(f"Profile: {name} of {len(asked)}", heard.bars, root), "utf-8")
    return pages


async def watched(url: str, pictures: Sequence[Picture]) -> Frame:
    """Ask from another thread, whose own loop is not watched, while this thread is."""
    from pyinstrument import Profiler

    profiler = Profiler(interval=INTERVAL, async_mode="disabled")
    profiler.start()
    try:
        await asyncio.to_thread(ask, url, pictures)
    finally:
        session = profiler.stop()
    return frames(session)


def ask(url: str, pictures: Sequence[Picture]) -> None:
    """All pictures at once, on a loop of its own. Raises `SegmentFailed`."""

    async def everything() -> None:
        async with SegmentClient(url) as client:
            await asyncio.gather(*(client.segment(one.data, one.prompt(0)) for one in pictures))

    asyncio.run(everything())


def frames(session: pyinstrument.session.Session) -> Frame:
    """What the profiler saw, as plain frames."""
    root = session.root_frame()
    return Frame("nothing was seen") if root is None else gathered([root])


def gathered(seen: Sequence[pyinstrument.frame.Frame]) -> Frame:
    """What was seen of one function below one caller, at several moments, as one frame with all its callees.

    A frame that only stands for its caller's own time is left out: the time stays the caller's.
    """
    below: dict[str, list[pyinstrument.frame.Frame]] = {}
    for frame in seen:
        for child in frame.children:
            if child.function != OWN_TIME:
                below.setdefault(_name(child), []).append(child)
    seconds = sum(frame.time for frame in seen)
    return Frame(_name(seen[0]), seconds, [gathered(children) for children in below.values()])


def _name(frame: pyinstrument.frame.Frame) -> str:
    return f"{frame.function} {Path(frame.file_path or '').name}".strip()


def as_page(title: str, bars: Sequence[Bar], root: Frame) -> str:
    """The page."""
    rows = [[name, f"{seconds * 1000:.1f}"] for name, seconds in hottest(root, SHOWN)]
    return document(
        title,
        [
            f"<h1>{escape(title)}</h1><h2>Stages</h2>{timeline(bars)}",
            f"<h2>The gateway's own code</h2><p class='note'>{NOTE}</p>{flame_graph(root)}",
            "<h2>Most time of their own</h2>" + table(["function", "ms"], rows),
        ],
    )
