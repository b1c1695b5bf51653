"""Folders that a command is to write into, tried before the work begins."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

import typer


def make_folder(folder: Path, option: str) -> None:
    """Make the folder that `option` names, with those above it. `BadParameter` if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise typer.BadParameter(f"{option}: {folder} cannot be made a folder: {error.strerror}") from error
    except OSError as error:
        raise _unwritable(folder, option, error) from error
    require_writable(folder, option)


def require_writable(folder: Path, option: str) -> None:
    """Raises `BadParameter` if nothing can be written in the folder."""
    try:
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(folder, option, error) from error


def _unwritable(folder: Path, option: str, error: OSError) -> typer.BadParameter:
    return typer.BadParameter(f"{option}: nothing can be written in {folder}: {error.strerror}")
