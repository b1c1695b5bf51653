"""Watches files for changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

WATCH_SECONDS = 1.0
Stamp = tuple[int, int, int]
Stamps = dict[Path, Stamp | None]


async def watch(
    files: Callable[[], Iterable[Path]], changed: Callable[[], None], before: Stamps | None = None
) -> None:
    """Call `changed` whenever one of the files has become another, since `before` or from now on, until cancelled.

    They are looked at by name: what an editor or Kubernetes puts in a file's place counts, too. `files` is asked
    anew each time; a file that is new among them has not changed yet.
    """
    seen = stamps(files()) if before is None else before
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        now = stamps(files())
        different = any(stamp != seen.get(file, stamp) for file, stamp in now.items())
        seen = now
        if different:
            changed()


def stamps(files: Iterable[Path]) -> Stamps:
    """What each file is now; None for one that is not there."""
    return {file: _stamp(file) for file in files}


def _stamp(file: Path) -> Stamp | None:
    try:
        found = file.stat()
    except OSError:  # it is just being replaced
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
