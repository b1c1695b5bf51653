"""Bare connections: what a client sends byte by byte, and transports that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from server.wire import WireLimits

PATIENCE = 30.0  # seconds until a hang is one
QUICK = WireLimits(header_bytes=32_768, header_seconds=0.3, linger_seconds=0.3, stall_seconds=0.3)


class Line:
    """A bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.head = ""
        """The header of the latest answer, in small letters."""

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, data: bytes, seconds: float) -> None:
        """A byte at a time, until nobody listens any more."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self.send(data)
                await asyncio.sleep(seconds)

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def until(self, end: bytes) -> bytes:
        """What comes up to `end`."""
        async with asyncio.timeout(PATIENCE):
            return await self._reader.readuntil(end)

    async def answer(self) -> tuple[int, dict[str, object]]:
        """The status and the problem document of the next answer, whose header bears the problem's request id."""
        async with asyncio.timeout(PATIENCE):
            self.head = head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            body = await self._reader.readexactly(length)
        assert "application/problem+json" in head
        problem = json.loads(body)
        assert f"x-request-id: {problem['request_id']}\r\n" in head
        return int(head.split()[1]), problem


@contextlib.asynccontextmanager
async def line(port: int) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class Leaking:
    """A transport whose client takes so much of what was written between two looks, and then nothing."""

    def __init__(self, left: int, taken: int, looks: int, *, closing: bool = False) -> None:
        self._sizes = [left - taken * look for look in range(looks)]
        self._closing = closing
        self.looks = 0
        self.aborted = asyncio.Event()

    def get_write_buffer_size(self) -> int:
        self.looks += 1
        return self._sizes[min(self.looks, len(self._sizes)) - 1]

    def write(self, data: bytes) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def get_protocol(self) -> object:
        return self

    def abort(self) -> None:
        self.aborted.set()
