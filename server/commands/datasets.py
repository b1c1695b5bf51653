"""``r2sm datasets``: looks at data sets on disk."""

from __future__ import annotations

import json
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from engines.errors import BackendUnavailable
from engines.evaluation.datasets import LAYOUTS, Layout, open_dataset, recognise
from engines.evaluation.datasets.check import Inventory, as_text, take_stock
from engines.evaluation.questions import FaultyData

app = typer.Typer(help="Look at data sets on disk.", no_args_is_help=True)


@app.callback()
def datasets() -> None:
    """Look at data sets on disk."""


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The data set.", exists=True, file_okay=False)],
    dataset: Annotated[Layout | None, typer.Option(help="Its layout; recognised unless told.")] = None,
    split: Annotated[str | None, typer.Option(help="The part of it, such as val or testA.")] = None,
    fields: Annotated[Path | None, typer.Option(help="R2SM: a file that renames its fields.")] = None,
    strict: Annotated[bool, typer.Option(help="End with exit code 1 if anything cannot be used.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Read all of a data set, and say what it holds and what of it cannot be used."""
    layout = dataset or recognise(folder)
    if layout is None:
        raise typer.BadParameter(f"nothing in {folder} looks like one of {', '.join(LAYOUTS)}")
    try:
        opened = open_dataset(layout, folder, split, fields)
        with tqdm(total=len(opened.pictures()), unit="picture", desc="check") as bar:
            stock = take_stock(opened, bar.update)
    except (FaultyData, BackendUnavailable) as error:
        typer.echo(f"r2sm: {layout}: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(_as_json(layout, stock))
    else:
        typer.echo(f"layout     {layout}\n{as_text(stock)}")
    if strict and stock.faults:
        raise typer.Exit(1)


def _as_json(layout: Layout, stock: Inventory) -> str:
    told: dict[str, Any] = {field.name: getattr(stock, field.name) for field in fields_of(stock)}
    told |= {"layout": layout, "examples": [f"{fault.kind}: {fault}" for fault in stock.examples]}
    return json.dumps(told, indent=2)
