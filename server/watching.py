"""Watches files for changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

WATCH_SECONDS = 1.0
Stamp = tuple[int, int, int]


async def watch(files: Callable[[], Iterable[Path]], changed: Callable[[], None]) -> None:
    """Call `changed` whenever one of the files has become another, until cancelled.

    They are looked at by name: what an editor or Kubernetes puts in a file's place counts, too. `files` is asked
    anew each time; a file that is new among them has not changed yet.
    """
    seen = _stamps(files())
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        now = _stamps(files())
        different = any(stamp != seen.get(file, stamp) for file, stamp in now.items())
        seen = now
        if different:
            changed()


def _stamps(files: Iterable[Path]) -> dict[Path, Stamp | None]:
    return {file: _stamp(file) for file in files}


def _stamp(file: Path) -> Stamp | None:
    try:
        found = file.stat()
    except OSError:  # it is just being replaced
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
