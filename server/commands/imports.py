"""``r2sm import``: published checkpoints made into bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from engines.bundles import Bundle
from engines.errors import EngineError

app = typer.Typer(help="Make bundles of published checkpoints.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Where the bundle goes; one that is there is replaced.")]
Sam = Annotated[
    str, typer.Option(help="A SAM: its checkpoint file, a Hugging Face folder, or its name there.")
]


@app.callback()
def imports() -> None:
    """Make bundles of published checkpoints."""


@app.command()
def coprs(
    checkpoint: Annotated[
        Path, typer.Option(help="The folder with its shards, or a file with the merged state.", exists=True)
    ],
    base: Annotated[
        str, typer.Option(help="The Qwen2.5-VL it started from: a folder or a Hugging Face name.")
    ],
    sam: Sam,
    out: Out,
    name: Annotated[str, typer.Option(help="The model's name in the API.")] = "coprs",
) -> None:
    """CoPRS: training shards, the Qwen2.5-VL they started from, and SAM."""
    from engines.bundles.imports.coprs import import_coprs

    _told(lambda: import_coprs(checkpoint, base, sam, out, name=name, progress=_say))


@app.command()
def egm(
    sam: Sam,
    out: Out,
    checkpoint: Annotated[str, typer.Option(help="A folder or a Hugging Face name.")] = "nvidia/EGM-4B",
    name: Annotated[str, typer.Option(help="The model's name in the API.")] = "egm",
    max_pixels: Annotated[int, typer.Option(help="The largest image the language model sees.")] = 1024 * 1024,
) -> None:
    """EGM: a Qwen3-VL that answers in boxes, and any SAM."""
    from engines.bundles.imports.egm import import_egm

    _told(lambda: import_egm(checkpoint, sam, out, name=name, max_pixels=max_pixels, progress=_say))


@app.command()
def converseg(
    out: Out,
    checkpoint: Annotated[
        str, typer.Option(help="Its published files: a folder or a Hugging Face name.")
    ] = "aadarsh99/ConverSeg-Net-3B",
    base: Annotated[
        str, typer.Option(help="The Qwen2.5-VL it was trained on: a folder or a Hugging Face name.")
    ] = "Qwen/Qwen2.5-VL-3B-Instruct",
    name: Annotated[str, typer.Option(help="The model's name in the API.")] = "converseg",
    max_pixels: Annotated[
        int | None,
        typer.Option(help="The largest image the language model sees, at its own aspect. [a square of 256]"),
    ] = None,
) -> None:
    """ConverSeg-Net: a trained SAM 2, its adapter and LoRA, and the Qwen2.5-VL below."""
    from engines.bundles.imports.converseg import import_converseg

    _told(lambda: import_converseg(checkpoint, base, out, name=name, max_pixels=max_pixels, progress=_say))


def _told(make: Callable[[], Bundle]) -> None:
    """Make a bundle and say so; a fault is named, without a traceback."""
    try:
        bundle = make()
    except EngineError as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(
        f"{bundle.path}: {bundle.name}, a {bundle.grounder} bundle; serve it with --bundle {bundle.path}"
    )


def _say(line: str) -> None:
    typer.echo(line, err=True)
