"""Folders and files that a command is to write, tried before the work begins."""

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


def require_writable_file(file: Path, option: str, *, parents: bool = False) -> None:
    """Raises `BadParameter` if the file cannot be written. One that is there stays as it is, and none is made.

    With `parents` the folders above it are.
    """
    try:
        if parents and not file.parent.exists():
            file.parent.mkdir(parents=True)
        if file.exists():
            file.open("ab").close()
        else:
            TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise typer.BadParameter(f"{option}: {file} cannot be written: {error.strerror}") from error


def _unwritable(folder: Path, option: str, error: OSError) -> typer.BadParameter:
    return typer.BadParameter(f"{option}: nothing can be written in {folder}: {error.strerror}")
