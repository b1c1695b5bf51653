"""``r2sm segment``: ask a running server about one image, or about all in a folder."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from tqdm import tqdm

from engines.mllm.answer import ReasoningLength
from engines.request import MaskChoice
from server.client import SegmentClient, SegmentFailed, ServerAway
from server.commands.image_files import (
    FileFailed,
    find_images,
    overlay_of_one,
    overlays_of_many,
    read_image,
    write_overlay,
)
from server.events import ReasoningDeltaEvent
from server.gather import gather
from server.schemas import SegmentResponse

Options = dict[str, object]
Connect = Callable[[], SegmentClient]
Show = Callable[[str], None]
Overlays = Mapping[Path, Path | None]


def segment(
    image: Annotated[str, typer.Argument(help="An image file, a folder of them, or a glob in quotes.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What to segment, in words; not needed with --box or --point.")
    ] = None,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    key: Annotated[str | None, typer.Option(help="The API key.", envvar="R2SM_API_KEY")] = None,
    mask_type: Annotated[MaskChoice, typer.Option(help="Which mask; auto lets the prompt decide.")] = "auto",
    reasoning: Annotated[ReasoningLength, typer.Option(help="How much the model may reason.")] = "full",
    objects: Annotated[str, typer.Option(help="auto, or how many objects the prompt means.")] = "auto",
    box: Annotated[str | None, typer.Option(help="x0,y0,x1,y1 around the object, in pixels.")] = None,
    point: Annotated[list[str] | None, typer.Option(help="x,y on the object; may be repeated.")] = None,
    not_point: Annotated[list[str] | None, typer.Option(help="x,y off the object; may be repeated.")] = None,
    drafts: Annotated[
        int, typer.Option(help="How many masks to draft meanwhile; tells how good they were.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the masks over the image to this file; of many, to this folder."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Let --out replace files, but never one of the images.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the server's whole answer; of many images, one on a line.")
    ] = False,
) -> None:
    """Segment what PROMPT means in IMAGE, and write an overlay: hidden parts hatched, the heatmap beside it."""
    options: Options = {"mask_type": mask_type, "reasoning": reasoning, "drafts": drafts}
    options |= _visual(box, point or [], not_point or [])
    options["objects"] = int(objects) if objects.isdecimal() else objects
    options["include"] = ["reasoning"] if out is None else ["reasoning", "heatmap"]
    files = find_images(image)
    alone = files == [Path(image)]
    overlays: Overlays = dict.fromkeys(files)
    if out is not None:
        place = overlay_of_one if alone else overlays_of_many
        overlays = place(files, out, force=force)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    connect = partial(SegmentClient, url, key=key)
    try:
        if alone:
            _segment_one(connect, files[0], prompt, options, overlays[files[0]], as_json)
        elif not _segment_many(connect, overlays, prompt, options, as_json):
            raise typer.Exit(1)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise typer.BadParameter(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (SegmentFailed, FileFailed) as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error


def _visual(box: str | None, on: list[str], off: list[str]) -> Options:
    """The request's `box` and `points`. Raises `BadParameter` for what are no numbers."""
    points = [(text, 1) for text in on] + [(text, 0) for text in off]
    visual: Options = {}
    if box is not None:
        visual["box"] = _numbers(box)
    if points:
        visual["points"] = [
            {"x": x, "y": y, "label": label} for text, label in points for x, y in [_numbers(text, 2)]
        ]
    return visual


def _numbers(text: str, count: int = 4) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise typer.BadParameter(f"{text}: {count} numbers with commas between them are wanted")
    return numbers


def _segment_one(
    connect: Connect, file: Path, prompt: str | None, options: Options, overlay: Path | None, as_json: bool
) -> None:
    """One image; on a terminal the reasoning is shown as it comes."""
    live = sys.stdout.isatty() and not as_json
    data = read_image(file)
    response = asyncio.run(_ask(connect, data, prompt, options, _show if live else None))
    if live:
        typer.echo()
    typer.echo(response.model_dump_json(indent=2) if as_json else in_words(response, with_reasoning=not live))
    if overlay is not None:
        write_overlay(data, response, overlay)


def _segment_many(
    connect: Connect, overlays: Overlays, prompt: str | None, options: Options, as_json: bool
) -> bool:
    """Image after image with a progress bar; tells whether all of them were answered and their overlays written."""
    failed = 0
    with tqdm(overlays.items(), unit="image", disable=None) as progress:
        for file, overlay in progress:
            try:
                data = read_image(file)
                response = asyncio.run(_ask(connect, data, prompt, options, None))
                progress.write(_line(file, response, as_json))
                if overlay is not None:
                    write_overlay(data, response, overlay)
            except ServerAway:
                raise
            except (SegmentFailed, FileFailed) as error:
                failed += 1
                progress.write(f"{file}: {error}", file=sys.stderr)
    if failed:
        typer.echo(f"r2sm: {failed} of {len(overlays)} images failed", err=True)
    return not failed


def _show(text: str) -> None:
    typer.echo(text, nl=False)


async def _ask(
    connect: Connect, data: bytes, prompt: str | None, options: Options, show: Show | None
) -> SegmentResponse:
    async with connect() as client:
        events = []
        async for event in client.stream(data, prompt, **options):
            events.append(event)
            if show is not None and isinstance(event, ReasoningDeltaEvent):
                show(event.text)
        return gather(events)


def _line(file: Path, response: SegmentResponse, as_json: bool) -> str:
    """One image's answer on one line, and each warning on one more."""
    if as_json:
        return f'{{"file": {json.dumps(str(file))}, "response": {response.model_dump_json()}}}'
    areas = ", ".join(f"{mask.mask_type} {mask.area} px" for mask in response.masks) or "no such object"
    return "\n".join([f"{file}: {areas}", *(f"{file}: warning: {text}" for text in response.warnings)])


def in_words(response: SegmentResponse, *, with_reasoning: bool = True) -> str:
    """An answer for people."""
    decision = response.decision
    lines = [f"reasoning  {response.reasoning}"] if response.reasoning and with_reasoning else []
    lines.append(f"decision   {decision.mask_type} ({decision.confidence:.2f}, by the {decision.source})")
    lines += [f"warning    {text}" for text in response.warnings]
    for mask in response.masks:
        box = ", ".join(f"{side:g}" for side in mask.bbox)
        lines.append(
            f"object {mask.object}   {mask.mask_type}: {mask.area} px, box [{box}], score {mask.score:.2f}"
        )
    lines += [f"object {part.object}   {part.fraction:.0%} of it hidden" for part in response.hidden]
    if not response.masks:
        lines.append("no such object")
    for draft in response.drafts or []:
        worth = "of no mask" if draft.iou is None else f"IoU {draft.iou:.2f} with the mask"
        lines.append(f"draft {draft.number}    after {draft.reasoning_tokens} tokens: {worth}")
    stages = ", ".join(f"{name} {spent:.0f}" for name, spent in response.timings_ms.items())
    return "\n".join([*lines, f"ms         {stages}"])
