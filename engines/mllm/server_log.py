"""What a vLLM server prints, handed on to this process's log and to a file."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

TAIL_LINES, LINE_LENGTH = 20, 500
LINE_END = re.compile(rb"[\r\n]+")
LEVEL = re.compile(rb"\b(WARNING|ERROR|CRITICAL)\b")
LEVELS = {b"WARNING": logging.INFO, b"ERROR": logging.ERROR, b"CRITICAL": logging.CRITICAL}
"""vLLM warns some twenty times in every good start."""


class ServerLog:
    """Forwards one server's output line by line: its errors as such, warnings as INFO, the rest as DEBUG.

    `file` gets every line whole; the log gets the first `LINE_LENGTH` characters. A file that cannot be written
    any more is given up, aloud: a server whose output nobody reads would stand still.
    """

    def __init__(self, name: str, file: Path | None) -> None:
        """Raises OSError if the file cannot be opened."""
        self._name = name
        self._file: BinaryIO | None = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("ab", buffering=0)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.ending = False
        """The server has been told to end: what it now calls an error is its own way of ending."""

    @property
    def tail(self) -> list[str]:
        """The last lines."""
        return list(self._tail)

    async def follow(self, stream: asyncio.StreamReader) -> None:
        """Forward `stream` until it ends, however long its lines are, then close the file."""
        rest = b""
        try:
            while data := await stream.read(2**16):
                *lines, rest = LINE_END.split(rest + data)
                self._forward(lines)
            self._forward([rest])
        finally:
            self._close()

    def _forward(self, lines: Iterable[bytes]) -> None:
        for line in filter(None, lines):
            self._write(line)
            text = line.decode("utf-8", "replace")[:LINE_LENGTH]
            level = None if self.ending else LEVEL.search(line[:200])
            self._tail.append(text)
            log.log(LEVELS[level[1]] if level else logging.DEBUG, "[%s] %s", self._name, text)

    def _write(self, line: bytes) -> None:
        if self._file is None:
            return
        try:
            self._file.write(line + b"\n")
        except OSError as fault:
            log.warning("the log file of vLLM (%s) is given up: %s", self._name, fault)
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
