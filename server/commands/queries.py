"""``r2sm queries``: builds R2SM-style queries for one's own amodal annotations."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from engines.errors import InvalidInput
from engines.evaluation.datasets import Layout, open_annotated, recognise
from engines.evaluation.datasets.annotated import Annotated as AnnotatedSet
from engines.evaluation.queries import ChatEndpoint, ChatFailed, Export, Origin, generate
from engines.evaluation.queries.export import IMAGES, LOG, PARTS
from engines.evaluation.questions import FaultyData
from server.commands.paths import make_folder, require_writable_file


def queries(
    folder: Annotated[Path, typer.Argument(help="The annotated pictures.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="Write the data set and its log here.")],
    url: Annotated[str, typer.Option(help="An OpenAI-compatible endpoint.")] = "http://127.0.0.1:8100/v1",
    model: Annotated[str, typer.Option(help="The model's name there.")] = "m",
    key: Annotated[str | None, typer.Option(help="The endpoint's key.", envvar="R2SM_CHAT_KEY")] = None,
    dataset: Annotated[Layout | None, typer.Option(help="Their layout; recognised unless told.")] = None,
    limit: Annotated[int | None, typer.Option(help="How many pictures.", min=1)] = None,
    concurrency: Annotated[int, typer.Option(help="How many pictures at once.", min=1)] = 2,
    strict: Annotated[bool, typer.Option(help="Stop at the first picture without all its queries.")] = False,
) -> None:
    """Ask a chat model for five modal and five amodal queries about each picture, clean and log them.

    OUT can be evaluated with `--dataset r2sm`. Run again with the same data and model, it goes on with the pictures
    that have no queries yet. Ends with exit code 1 if a picture is without all its queries.
    """
    if out.resolve() == folder.resolve():
        raise typer.BadParameter(f"--out: {out} is the folder of the annotated pictures itself")
    layout = dataset or recognise(folder)
    if layout is None:
        raise typer.BadParameter(
            f"nothing in {folder} looks like annotations; name the layout with --dataset"
        )
    try:
        pictures = open_annotated(layout, folder)
        _require_writable(out)
        export = Export(out, Origin(data=folder.resolve(), layout=layout, model=model))
        short = asyncio.run(_all(pictures, ChatEndpoint(url, model, key), export, limit, concurrency, strict))
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from error
    except ChatFailed as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    for line in short:
        typer.echo(f"short: {line}", err=True)
    if short:
        raise typer.Exit(1)


def _require_writable(out: Path) -> None:
    """Make the folders of a data set. Raises `BadParameter` if they, or what grows in them, cannot be written."""
    for folder in (out, out / IMAGES):
        make_folder(folder, "--out")
    for file in (out / PARTS, out / LOG):
        require_writable_file(file, "--out")


async def _all(
    pictures: AnnotatedSet,
    chat: ChatEndpoint,
    export: Export,
    limit: int | None,
    concurrency: int,
    strict: bool,
) -> list[str]:
    """Generate for every picture; what came short is told."""
    names = list(pictures.pictures())[:limit]
    left = [name for name in names if name not in export.known]
    waiting, short = iter(left), list[str]()

    async def work(bar: tqdm[Any]) -> None:
        for name in waiting:
            problem = await _one(pictures, name, chat, export)
            if problem is not None:
                short.append(f"{name}: {problem}")
                if strict:
                    raise ChatFailed(short[-1])
            bar.update()

    try:
        bar: tqdm[Any] = tqdm(
            total=len(names), initial=len(names) - len(left), unit="picture", desc="queries"
        )
        with bar:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work(bar))
    except ExceptionGroup as failed:
        chosen = failed.subgroup(ChatFailed)
        if chosen is None:
            raise
        raise chosen.exceptions[0] from None
    finally:
        export.finish()
        await chat.close()
    return short


async def _one(pictures: AnnotatedSet, name: str, chat: ChatEndpoint, export: Export) -> str | None:
    """Generate for one picture; what is missing, in words."""
    try:
        scene = await asyncio.to_thread(pictures.annotated, name)
    except FaultyData as error:
        export.log({"picture": name, "fault": str(error)})
        return str(error)
    try:
        asked = await generate(scene, chat)
    except ChatFailed as error:
        export.log({"picture": name, "fault": str(error)})
        return str(error)
    export.add(scene, asked)
    missing = [f"{count} {kind} queries too few" for kind, count in asked.missing.items() if count]
    missing += [f"no amodal query means instance {number}" for number in asked.uncovered]
    missing += [str(fault) for fault in scene.faults]
    return "; ".join(missing) or None
