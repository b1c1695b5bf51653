"""``r2sm evaluate``: scores a running server on a data set with known answers."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer
from tqdm import tqdm

from engines.errors import InvalidInput
from engines.evaluation.demo_set import DemoSet
from engines.evaluation.outcomes import Answer, Outcome, QueryFailed, Question, Segment
from engines.evaluation.report import Report, as_table, summarise
from engines.evaluation.runner import evaluate as run_evaluation
from engines.events import MaskType, Rle
from server.client import SegmentClient, SegmentFailed
from server.schemas import SegmentResponse

TypeAsked = Literal["auto", "both"]


class EvaluationReport(Report):
    """A report with what was evaluated."""

    dataset: str
    seed: int
    limit: int
    queries_per_scene: int
    mask_type: TypeAsked
    url: str


def evaluate(
    dataset: Annotated[Literal["demo"], typer.Option(help="The data set.")] = "demo",
    seed: Annotated[int, typer.Option(help="The seed of the first scene.")] = 20_260_001,
    limit: Annotated[int, typer.Option(help="How many scenes.")] = 500,
    queries_per_scene: Annotated[int, typer.Option(help="How many queries about each scene.")] = 1,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    concurrency: Annotated[int, typer.Option(help="How many requests at once.")] = 2,
    mask_type: Annotated[
        TypeAsked,
        typer.Option(help="auto: score the mask that the server chooses; both: the right one of both."),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a running server: decision accuracy, gIoU, cIoU, reasoning, latency.

    Ends with exit code 1 if any query got no answer.
    """
    try:
        questions = DemoSet(seed, limit, queries_per_scene)
        outcomes = asyncio.run(ask_all(questions, SegmentClient(url), concurrency, mask_type))
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from error
    except SegmentFailed as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    report = EvaluationReport(
        **dict(summarise(outcomes)),
        dataset=dataset,
        seed=seed,
        limit=limit,
        queries_per_scene=queries_per_scene,
        mask_type=mask_type,
        url=url,
    )
    typer.echo(report.model_dump_json(indent=2) if as_json else as_table(report))
    if report.failed:
        raise typer.Exit(1)


async def ask_all(
    questions: DemoSet, client: SegmentClient, concurrency: int, mask_type: TypeAsked
) -> list[Outcome]:
    """Ask every question of the set, with a progress bar on standard error.

    Raises:
        SegmentFailed: the server is away or not ready before the first question.
    """
    async with client:
        if not await client.ready():
            raise SegmentFailed(f"the server at {client.url} is not ready")
        with tqdm(total=len(questions), unit="query", desc="evaluate", smoothing=0.05) as bar:
            return await run_evaluation(
                questions,
                asking(client, mask_type),
                concurrency=concurrency,
                on_outcome=lambda _: bar.update(),
            )


def asking(client: SegmentClient, mask_type: TypeAsked) -> Segment:
    """A client as the evaluation wants it."""

    async def segment(question: Question) -> Answer:
        try:
            return to_answer(await client.segment(question.image, question.prompt, mask_type=mask_type))
        except SegmentFailed as error:
            raise QueryFailed(str(error)) from error

    return segment


def to_answer(response: SegmentResponse) -> Answer:
    """A response as the evaluation reads it."""
    masks: dict[MaskType, list[Rle]] = {}
    for mask in sorted(response.masks, key=lambda mask: mask.object):
        masks.setdefault(mask.mask_type, []).append(mask.rle)
    return Answer(response.decision.mask_type, response.reasoning or "", masks, response.timings_ms)
