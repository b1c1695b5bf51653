"""A bundle that appears whole, by one rename, or not at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.bundles.manifest import MANIFEST_FILE, MLLM, VISION
from engines.errors import CheckpointError


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """A folder beside `out` to make a bundle in; it becomes `out` when the block succeeds, else it is gone.

    What a process that was killed has left there is removed first, or put back; a bundle that is at `out` is replaced.

    Raises:
        CheckpointError: `out` is something else than a bundle, or the disk is full.
    """
    out = out.resolve()  # a link to a bundle stays one, and the new bundle comes where the old one is
    if not out.exists() and _aside(out).exists():
        _aside(out).rename(out)
    if out.exists() and not (out / MANIFEST_FILE).is_file():
        raise CheckpointError(f"{out}: exists and is no bundle; it is left as it is")
    folder = out.parent / f".{out.name}.unfinished"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        for part in (MLLM, VISION):
            (folder / part).mkdir(parents=True)
        yield folder
        _replace(out, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CheckpointError(f"{out.parent}: the disk is full ({error.strerror})") from error
        raise CheckpointError(f"{error.filename or folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(out: Path, folder: Path) -> None:
    """Put `folder` at `out`; a bundle that was there is set aside until it has been."""
    aside = _aside(out)
    shutil.rmtree(aside, ignore_errors=True)
    if out.exists():
        out.rename(aside)
    try:
        folder.rename(out)
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _aside(out: Path) -> Path:
    """Where a bundle is while another takes its place."""
    return out.parent / f".{out.name}.replaced"
