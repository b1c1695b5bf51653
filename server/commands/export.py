"""``r2sm export``: a bundle's vision model as ONNX graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engines.bundles import Bundle
from engines.errors import CacheFailed, EngineError
from engines.vision.onnx_cache import export_to
from engines.vision.recipe import BlockPrecision, ExportRecipe, PositionForm


def export(
    bundle: Annotated[Path, typer.Argument(help="The bundle.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="The folder for the graphs; it must not exist yet.")],
    block_precision: Annotated[
        BlockPrecision, typer.Option(help="Of attention and MLP in SAM's encoder; all else is float32.")
    ] = "fp32",
    window_positions: Annotated[
        PositionForm, typer.Option(help="How relative positions enter attention within windows.")
    ] = "concatenated",
    global_positions: Annotated[
        PositionForm, typer.Option(help="The same for attention over the whole image.")
    ] = "concatenated",
) -> None:
    """Write a bundle's vision model as ONNX: the encoder, and the decoder without and with points and boxes."""
    recipe = ExportRecipe(block_precision, window_positions, global_positions)
    try:
        if out.exists():
            raise CacheFailed(f"{out}: exists already; it is left as it is")
        export_to(out.absolute(), Bundle.load(bundle).vision_path, recipe)
    except EngineError as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(1) from error
    for file in sorted(out.iterdir()):
        typer.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
