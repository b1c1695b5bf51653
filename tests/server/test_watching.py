"""Files that are watched: changed, replaced, gone, and taken up later."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.watching import stamps, watch


async def test_a_change_is_seen_and_a_new_file_is_followed_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.watching.WATCH_SECONDS", 0.01)
    files, looked, changes = [tmp_path / "a"], asyncio.Event(), asyncio.Queue[None]()
    files[0].write_text("one")

    def named() -> list[Path]:
        looked.set()
        return files

    async def look() -> None:
        for _ in range(2):  # the first may have begun before
            looked.clear()
            await looked.wait()

    watching = asyncio.create_task(watch(named, lambda: changes.put_nowait(None)))
    async with asyncio.timeout(10):
        await look()
        assert changes.empty()
        files[0].write_text("another")
        await changes.get()
        (tmp_path / "b").write_text("new")
        files.append(tmp_path / "b")
        await look()
        assert changes.empty(), "it has not changed since it is watched"
        (tmp_path / "b").unlink()
        await changes.get()
    watching.cancel()


async def test_what_changed_since_an_earlier_look_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.watching.WATCH_SECONDS", 0.01)
    file, changed = tmp_path / "a", asyncio.Event()
    file.write_text("one")
    before = stamps([file])
    file.write_text("another")
    watching = asyncio.create_task(watch(lambda: [file], changed.set, before))
    async with asyncio.timeout(10):
        await changed.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
