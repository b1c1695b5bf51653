"""``r2sm keys``: API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.admission.keys import KeysInvalid, Priority, new_key, read_keys

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
        if file is not None:
            _add(name, entry, file)
    except KeysInvalid as error:
        typer.echo(f"r2sm: {error}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        typer.echo(f"r2sm: {file} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from error
    typer.echo("The key, which nobody can show again:", err=True)
    typer.echo(secret)
    if file is None:
        typer.echo("The line for the server's api_keys_file:", err=True)
        typer.echo(entry)


def _add(name: str, entry: str, file: Path) -> None:
    """Add a key's line to the file. Raises `KeysInvalid` if it has one of that name or is no such file, and OSError."""
    known = read_keys(file, None) if file.exists() else None
    if known is not None and name in {key.name for key in known.keys}:
        raise KeysInvalid(f'{file} has a key "{name}" already')
    with file.open("a", encoding="utf-8") as entries:
        entries.write(f"\n{entry}\n")
