"""``r2sm loadtest``: a scenario against a running server, held to its objectives."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer

from engines.errors import InvalidInput
from loadtests.load.arrivals import Load
from loadtests.load.figures import figure_names
from loadtests.load.objectives import SHIPPED, read_objectives
from loadtests.load.questions import folder_pictures
from loadtests.load.report import as_text, make_report, write_report
from loadtests.load.run import Plan, run
from loadtests.load.scenarios import SCENARIOS, TRANSPORTS, Scenario, ScenarioName
from server.client import SegmentClient, SegmentFailed

REPORT = Path("out/loadtest")


def loadtest(
    scenario: Annotated[ScenarioName, typer.Argument(help="What kind of load.")],
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    slo: Annotated[Path, typer.Option(help="The objectives.")] = SHIPPED,
    rates: Annotated[
        str, typer.Option(help="Clients a second; several, between commas, are steps one after another.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.0, help="How long a step is; 0: the scenario's.")] = 0.0,
    transport: Annotated[
        Literal["all", "rest", "sse", "ws"], typer.Option(help="How it is asked; all: in turns.")
    ] = "all",
    images: Annotated[
        Path | None, typer.Option(help="PNG and JPEG files with prompts.txt; the demo's scenes.")
    ] = None,
    report: Annotated[Path, typer.Option(help="The folder of the report and the requests.")] = REPORT,
    key: Annotated[str | None, typer.Option(help="The API key.", envvar="R2SM_API_KEY")] = None,
    patience: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a client waits for an answer.")
    ] = 60.0,
    processes: Annotated[int, typer.Option(min=1, help="Processes here that bring the load.")] = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Locust workers on other machines to wait for, in their place.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="The same load again; 0: another one.")] = 0,
    figures: Annotated[
        bool, typer.Option("--figures", help="List what there is to measure, and stop.")
    ] = False,
) -> None:
    """Load a running server and write a report. Exit code 1 says that an objective was missed or the run broke off."""
    if figures:
        typer.echo("\n".join(f"{name:24} {meaning}" for name, meaning in figure_names().items()))
        return
    chosen = SCENARIOS[scenario]
    try:
        objectives = read_objectives(slo, chosen.name)
        load = Load(_rates(rates, chosen), seconds or chosen.seconds, chosen.wave)
        if images is not None:
            folder_pictures(images)
        plan = Plan(
            chosen,
            load,
            url,
            report,
            TRANSPORTS if transport == "all" else (transport,),
            images,
            key,
            patience,
            seed,
            processes,
            workers,
        )
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from error
    try:
        asyncio.run(must_be_ready(url, key))
    except SegmentFailed as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    try:
        found = make_report(run(plan, lambda text: typer.echo(text, err=True)), objectives)
        page = write_report(found)
    except OSError as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(as_text(found))
    typer.echo(f"the report is {page}")
    if not found.kept:
        raise typer.Exit(1)


def _rates(given: str, scenario: Scenario) -> tuple[float, ...]:
    try:
        rates = tuple(float(word) for word in given.split(",") if word)
    except ValueError as error:
        raise InvalidInput(f"--rates {given}: {error}") from error
    if any(not 0 < rate < 1e6 for rate in rates):
        raise InvalidInput(f"--rates {given}: a rate must be above 0")
    return rates or (scenario.rate,)


async def must_be_ready(url: str, key: str | None) -> None:
    """Raises SegmentFailed if there is nobody to load, or nothing to load them with.

    As the load itself this goes past any proxy; a client with a transport of its own has none.
    """
    if find_spec("locust") is None:
        raise SegmentFailed("load tests need Locust: pip install '.[loadtests]'")
    async with SegmentClient(url, httpx.AsyncHTTPTransport(), key=key) as client:
        if not await client.ready():
            raise SegmentFailed(f"the server at {url} is not ready")
