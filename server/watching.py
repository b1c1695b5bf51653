"""Watches files for changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

WATCH_SECONDS = 1.0
Stamp = tuple[int, int, int]


async def watch(files: Sequence[Path], changed: Callable[[], None]) -> None:
    """Call `changed` whenever one of the files has become another, until cancelled.

    They are looked at by name: what an editor or Kubernetes puts in a file's place counts, too.
    """
    seen = [_stamp(file) for file in files]
    while files:
        await asyncio.sleep(WATCH_SECONDS)
        now = [_stamp(file) for file in files]
        if now != seen:
            seen = now
            changed()


def _stamp(file: Path) -> Stamp | None:
    try:
        found = file.stat()
    except OSError:  # it is just being replaced
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
