"""``r2sm evaluate``: scores a running server on a data set with known answers."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from PIL import Image
from tqdm import tqdm

from engines.errors import BackendUnavailable, InvalidInput
from engines.evaluation.brought import with_brought
from engines.evaluation.datasets import Layout, open_dataset
from engines.evaluation.datasets.demo import DemoSet
from engines.evaluation.outcomes import Answer, QueryFailed, Segment
from engines.evaluation.page import write_page
from engines.evaluation.published import Table
from engines.evaluation.questions import DataSet, Question
from engines.evaluation.report import Report, as_table, summarise
from engines.evaluation.results import Results, Run
from engines.evaluation.runner import Plan, Ran
from engines.evaluation.runner import evaluate as run_evaluation
from engines.events import MaskType, Rle
from engines.vision.masks import encode
from server.client import SegmentClient, SegmentFailed
from server.commands.paths import make_folder, require_writable_file
from server.retries import NEVER
from server.schemas import HeatmapInfo, SegmentResponse

TypeAsked = Literal["auto", "both", "modal", "amodal", "given"]
WORTH_ASKING_AGAIN = (0, 429, 502, 503, 504)
DEMO_SEED, DEMO_SCENES = 20_260_001, 500


class EvaluationReport(Report):
    """A report with what was evaluated."""

    dataset: str
    seed: int | None
    limit: int | None
    queries_per_scene: int
    split: str | None
    mask_type: TypeAsked
    url: str


def evaluate(
    dataset: Annotated[
        Literal["demo", Layout], typer.Option(help="The data set: demo, or the layout of --data.")
    ] = "demo",
    data: Annotated[Path | None, typer.Option(help="The folder of the data set.", file_okay=False)] = None,
    split: Annotated[str | None, typer.Option(help="The part of the data set, such as val or testA.")] = None,
    fields: Annotated[Path | None, typer.Option(help="R2SM: a file that renames its fields.")] = None,
    seed: Annotated[int, typer.Option(help="demo: the seed of the first scene.")] = DEMO_SEED,
    limit: Annotated[
        int | None, typer.Option(help="How many queries (demo: scenes, 500 unless told).")
    ] = None,
    queries_per_scene: Annotated[int, typer.Option(help="demo: how many queries about each scene.")] = 1,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    key: Annotated[str | None, typer.Option(help="The API key.", envvar="R2SM_API_KEY")] = None,
    concurrency: Annotated[int, typer.Option(help="How many requests at once.")] = 2,
    retries: Annotated[int, typer.Option(help="How often a busy server is asked again.")] = 3,
    mask_type: Annotated[
        TypeAsked,
        typer.Option(
            help="auto: score the mask that the server chooses; both: the right one of both; "
            "modal, amodal: ask for that one; given: ask for each query's own."
        ),
    ] = "auto",
    heatmaps: Annotated[bool, typer.Option(help="Ask for heatmaps and compare them too.")] = False,
    results: Annotated[
        Path | None, typer.Option(help="Keep one JSON line a query here, and go on with what is there.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write report.html and report.json here.")] = None,
    published: Annotated[
        list[Path] | None,
        typer.Option(help="A TOML file of published rows for the report's tables; may be given again."),
    ] = None,
    strict: Annotated[bool, typer.Option(help="Stop at the first thing that cannot be used.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a running server: decisions, masks, instances, outlines, reasoning, latency.

    Ends with exit code 1 if any query got no answer, or there was none to ask.
    """
    scenes = DEMO_SCENES if limit is None else limit
    run = Run(dataset=f"demo:{seed}:{queries_per_scene}" if dataset == "demo" else dataset, split=split)
    run = run.model_copy(update={"mask_type": mask_type, "url": url.rstrip("/"), "heatmaps": heatmaps})
    if heatmaps and mask_type == "both":
        raise typer.BadParameter("--heatmaps: with --mask-type both one heatmap shows both masks")
    try:
        tables = _tables(published or [], report)
        questions = (
            DemoSet(seed, scenes, queries_per_scene)
            if dataset == "demo"
            else _open(dataset, data, split, fields)
        )
        if report is not None:
            make_folder(report, "--report")
        if results is not None:
            require_writable_file(results, "--results", parents=True)
        plan = Plan(concurrency, None if dataset == "demo" else limit, retries, strict)
        client = SegmentClient(url, retries=NEVER, key=key)  # its pauses would count as latency
        if results:
            run = run.model_copy(update={"model": asyncio.run(_served(url, key))})
        with closing(Results(results, run, strict=strict)) if results else nullcontext() as kept:
            ran = asyncio.run(ask_all(questions, client, plan, mask_type, kept, heatmaps))
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from error
    except (SegmentFailed, BackendUnavailable) as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    forced = mask_type in ("modal", "amodal", "given")
    summary = EvaluationReport(
        **dict(summarise(ran.outcomes, ran.faults, forced=forced, both=mask_type == "both")),
        dataset=dataset,
        seed=seed if dataset == "demo" else None,
        limit=scenes if dataset == "demo" else limit,
        queries_per_scene=queries_per_scene,
        split=split,
        mask_type=mask_type,
        url=url,
    )
    typer.echo(summary.model_dump_json(indent=2) if as_json else as_table(summary))
    if report is not None:
        try:
            _write_report(report, summary, ran, questions, tables)
        except OSError as error:
            typer.echo(f"r2sm: the report cannot be written: {error}", err=True)
            raise typer.Exit(1) from error
    if not summary.queries:
        typer.echo("r2sm: no query could be asked", err=True)
    if summary.failed or not summary.queries:
        raise typer.Exit(1)


async def _served(url: str, key: str | None) -> str:
    """The served model's name: what one has answered is no result of another."""
    async with SegmentClient(url, retries=NEVER, key=key) as client:
        return ", ".join(model.id for model in await client.models())


def _open(layout: Layout, data: Path | None, split: str | None, fields: Path | None) -> DataSet:
    if data is None:
        raise InvalidInput(f"--dataset {layout} needs its folder, as --data")
    return open_dataset(layout, data, split, fields)


def _tables(published: Sequence[Path], report: Path | None) -> tuple[Table, ...]:
    if published and report is None:
        raise InvalidInput("--published adds to the tables of --report, which is not asked for")
    return with_brought(published)


def _write_report(
    folder: Path, summary: EvaluationReport, ran: Ran, questions: DataSet, tables: Sequence[Table]
) -> None:
    (folder / "report.json").write_text(summary.model_dump_json(indent=2) + "\n", "utf-8")
    title = " ".join(filter(None, (summary.dataset, summary.split, f"(mask type: {summary.mask_type})")))
    page = folder / "report.html"
    write_page(page, summary, ran, questions, title=title, url=summary.url, published=tables)


async def ask_all(
    questions: DataSet,
    client: SegmentClient,
    plan: Plan,
    mask_type: TypeAsked,
    results: Results | None = None,
    heatmaps: bool = False,
) -> Ran:
    """Ask every question of the set, with a progress bar on standard error.

    Raises:
        SegmentFailed: the server is away or not ready before the first question.
    """
    async with client:
        if not await client.ready():
            raise SegmentFailed(f"the server at {client.url} is not ready")
        with tqdm(total=_count(questions, plan), unit="query", desc="evaluate", smoothing=0.05) as bar:
            ran = await run_evaluation(
                questions,
                asking(client, mask_type, heatmaps),
                plan,
                results=results,
                on_outcome=lambda _: bar.update(),
            )
            bar.total = bar.n  # a limit may be above what there is
            return ran


def _count(questions: DataSet, plan: Plan) -> int | None:
    """How many queries there will be; None where only reading everything would tell."""
    return len(questions) if isinstance(questions, DemoSet) else plan.limit


def asking(client: SegmentClient, mask_type: TypeAsked, heatmaps: bool = False) -> Segment:
    """A client as the evaluation wants it."""
    include = ["reasoning", "heatmap"] if heatmaps else ["reasoning"]

    async def segment(question: Question) -> Answer:
        asked = question.mask_type if mask_type == "given" else mask_type
        try:
            response = await client.segment(question.image, question.prompt, mask_type=asked, include=include)
        except SegmentFailed as error:
            again = error.status in WORTH_ASKING_AGAIN
            raise QueryFailed(str(error), again=again, wait=error.retry_after or 0.0) from error
        except ValueError as error:  # a query that the server would not take, such as one too long
            raise QueryFailed(f"the query cannot be asked: {_first_fault(error)}") from error
        return await asyncio.to_thread(to_answer, response) if response.heatmap else to_answer(response)

    return segment


def _first_fault(error: ValueError) -> str:
    faults: list[Any] = error.errors(include_url=False) if hasattr(error, "errors") else []
    return str(faults[0]["msg"]) if faults else str(error)


def to_answer(response: SegmentResponse) -> Answer:
    """A response as the evaluation reads it."""
    masks: dict[MaskType, list[Rle]] = {}
    scores: dict[MaskType, list[float]] = {}
    for mask in sorted(response.masks, key=lambda mask: mask.object):
        masks.setdefault(mask.mask_type, []).append(mask.rle)
        scores.setdefault(mask.mask_type, []).append(mask.score)
    decision, size = response.decision, (response.image.width, response.image.height)
    return Answer(
        decision.mask_type,
        response.reasoning or "",
        masks,
        response.timings_ms,
        scores,
        decision.confidence,
        decision.source,
        _upper_half(response.heatmap, size) if response.heatmap else None,
    )


def _upper_half(heatmap: HeatmapInfo, size: tuple[int, int]) -> Rle:
    """The heatmap's part above one half, upscaled to a picture of (width, height)."""
    with Image.open(io.BytesIO(base64.b64decode(heatmap.png_base64)), formats=["PNG"]) as stored:
        values = np.asarray(stored.convert("L").resize(size, Image.Resampling.BILINEAR))
    return encode(values > 127).rle
