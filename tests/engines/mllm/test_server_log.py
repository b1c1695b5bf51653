"""What a server prints reaches the log at its level and the file as it is, however it arrives."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from engines.mllm.server_log import LINE_LENGTH, TAIL_LINES, ServerLog

LOGGER = "engines.mllm.server_log"
"""Other tests' leavings can be logged at any time."""


async def follow(output: ServerLog, *pieces: bytes) -> None:
    stream = asyncio.StreamReader()
    following = asyncio.create_task(output.follow(stream))
    for piece in pieces:
        stream.feed_data(piece)
        await asyncio.sleep(0)
    stream.feed_eof()
    await following


async def test_lines_keep_their_level_and_their_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    pieces = (
        b"(Engine pid=1) INFO 11-21 fine\n(Engine pid=1) WARN",
        b"ING 11-21 odd\rERROR: bad\nno level \xff",
    )
    await follow(ServerLog("test", None), *pieces)
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == LOGGER]
    assert [
        line for line in said if line[1].startswith("[test]")
    ] == [  # real servers may be running beside it
        ("DEBUG", "[test] (Engine pid=1) INFO 11-21 fine"),
        ("INFO", "[test] (Engine pid=1) WARNING 11-21 odd"),
        ("ERROR", "[test] ERROR: bad"),
        ("DEBUG", "[test] no level \N{REPLACEMENT CHARACTER}"),
    ]


async def test_a_server_that_is_ending_raises_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    output = ServerLog("test", None)
    output.ending = True
    await follow(output, b"ERROR engine is dead\n")
    assert [one for one in caplog.records if one.name == LOGGER and one.levelno > logging.DEBUG] == []


async def test_the_file_has_whole_lines_and_the_tail_only_the_last(tmp_path: Path) -> None:
    output = ServerLog("reason", tmp_path / "logs" / "vllm.log")
    lines = [f"line {number} " + "x" * 1000 for number in range(50)]
    await follow(output, "\n".join(lines).encode())
    assert (tmp_path / "logs" / "vllm.log").read_text().splitlines() == lines
    assert output.tail == [line[:LINE_LENGTH] for line in lines[-TAIL_LINES:]]


async def test_a_full_disk_ends_the_file_and_not_the_reading(caplog: pytest.LogCaptureFixture) -> None:
    output = ServerLog("reason", Path("/dev/full"))
    await follow(output, b"one\ntwo\n")
    assert output.tail == ["one", "two"]
    [record] = [one for one in caplog.records if one.name == LOGGER]
    assert "No space left" in record.getMessage()
