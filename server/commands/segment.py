"""``r2sm segment``: ask a running server about one image."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from engines.mllm.answer import ReasoningLength
from engines.pipeline import MaskChoice
from server.client import SegmentClient, SegmentFailed
from server.images import ImageLimits, decode
from server.overlay import draw_overlay
from server.schemas import SegmentResponse


def segment(
    image: Annotated[Path, typer.Argument(help="An image file.", exists=True, dir_okay=False)],
    prompt: Annotated[str, typer.Argument(help="What to segment, in words.")],
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    mask_type: Annotated[MaskChoice, typer.Option(help="Which mask; auto lets the prompt decide.")] = "auto",
    reasoning: Annotated[ReasoningLength, typer.Option(help="How much the model may reason.")] = "full",
    objects: Annotated[str, typer.Option(help="auto, or how many objects the prompt means.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the masks over the image to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the server's whole answer.")] = False,
) -> None:
    """Segment what PROMPT means in IMAGE, and write an overlay: hidden parts hatched, the heatmap beside it."""
    data = image.read_bytes()
    options: dict[str, object] = {"mask_type": mask_type, "reasoning": reasoning}
    options["objects"] = int(objects) if objects.isdecimal() else objects
    options["include"] = ["reasoning"] if out is None else ["reasoning", "heatmap"]
    try:
        response = asyncio.run(_ask(url, data, prompt, options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise typer.BadParameter(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except SegmentFailed as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    if out is not None:
        _write_overlay(data, response, out)
    typer.echo(response.model_dump_json(indent=2) if as_json else _in_words(response))


async def _ask(url: str, data: bytes, prompt: str, options: dict[str, object]) -> SegmentResponse:
    async with SegmentClient(url) as client:
        return await client.segment(data, prompt, **options)


def _write_overlay(data: bytes, response: SegmentResponse, out: Path) -> None:
    overlay = draw_overlay(decode(data, ImageLimits()), response)
    try:
        overlay.save(out)
    except (OSError, ValueError) as error:  # no such folder, no such format
        typer.echo(f"r2sm: {out} cannot be written: {error}", err=True)
        raise typer.Exit(1) from error


def _in_words(response: SegmentResponse) -> str:
    decision = response.decision
    lines = [f"reasoning  {response.reasoning}"] if response.reasoning else []
    lines.append(f"decision   {decision.mask_type} ({decision.confidence:.2f}, by the {decision.source})")
    for mask in response.masks:
        box = ", ".join(f"{side:g}" for side in mask.bbox)
        lines.append(
            f"object {mask.object}   {mask.mask_type}: {mask.area} px, box [{box}], score {mask.score:.2f}"
        )
    lines += [f"object {part.object}   {part.fraction:.0%} of it hidden" for part in response.hidden]
    if not response.masks:
        lines.append("no such object")
    stages = ", ".join(f"{name} {spent:.0f}" for name, spent in response.timings_ms.items())
    return "\n".join([*lines, f"ms         {stages}"])
