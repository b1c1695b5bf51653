"""``r2sm keys``: API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.admission.keys import KeysInvalid, Priority, new_key

app = typer.Typer(help="API keys.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """API keys."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What the key is called in logs and metrics.")],
    limits: Annotated[str, typer.Option(help="How often it may ask: 60/minute, 10/second;1000/hour.")] = "",
    priority: Annotated[Priority, typer.Option(help="How urgent its requests are.")] = "interactive",
    file: Annotated[Path | None, typer.Option(help="Add the line to this file, the server's.")] = None,
) -> None:
    """Make a key. It is shown this once; the server only needs its hash."""
    try:
        secret, entry = new_key(name, limits, priority)
    except KeysInvalid as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo("The key, which nobody can show again:", err=True)
    typer.echo(secret)
    if file is not None:
        with file.open("a", encoding="utf-8") as entries:
            entries.write(f"\n{entry}\n")
        return
    typer.echo("The line for the server's api_keys_file:", err=True)
    typer.echo(entry)
