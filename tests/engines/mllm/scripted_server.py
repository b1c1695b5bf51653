"""A local HTTP server that answers as a test scripts it: the faults that a real vLLM shows only on bad days."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Reply = Callable[["Exchange"], Awaitable[None]]


@dataclass(slots=True)
class Exchange:
    """One request, its headers by lower-case name, and the way to answer it."""

    path: str
    headers: dict[str, str]
    body: dict[str, object]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def respond(self, body: object, status: int = 200) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} Scripted\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
        self.writer.write(head.encode() + content)
        await self.writer.drain()

    async def stream(self, *events: object) -> None:
        """Begin a response whose end is the connection's, and send some events, their JSON in UTF-8 as vLLM's."""
        self.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        await self.tell(*events)

    async def tell(self, *events: object) -> None:
        """Send more events of a response that has begun."""
        for event in events:
            data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
            self.writer.write(f"data: {data}\n\n".encode())
        await self.writer.drain()

    async def until_left(self) -> None:
        """Wait until the client closes the connection."""
        await self.reader.read()


@dataclass(slots=True)
class ScriptedServer:
    """`url` of the server, and the requests it has got so far."""

    url: str
    seen: list[Exchange] = field(default_factory=list)


@asynccontextmanager
async def scripted_server(reply: Reply) -> AsyncIterator[ScriptedServer]:
    """Serve on a free port of the loopback interface; `reply` answers each request, one to a connection."""
    scripted = ScriptedServer("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = (line.partition(": ") for line in head.splitlines()[1:])
        headers = {name.lower(): value for name, _, value in lines}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        exchange = Exchange(head.split()[1], headers, body, reader, writer)
        scripted.seen.append(exchange)
        await reply(exchange)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield scripted
