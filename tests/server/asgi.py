"""ASGI by hand: a client that can be slow, vanish, and look at every message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI

SCOPE = {
    "query_string": b"", "root_path": "", "http_version": "1.1", "server": ("gateway", 80), "client": ("1.2.3.4", 5),
}  # fmt: skip
PATIENCE = 30.0


@dataclass
class Peer:
    """The other side of one ASGI call: `say` to it, read what it `hear`s. With `deaf` set it takes nothing more."""

    incoming: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    outgoing: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    hearing: asyncio.Event = field(default_factory=asyncio.Event)
    served: asyncio.Task[None] = field(init=False)

    async def send(self, message: Any) -> None:
        await self.hearing.wait()
        self.outgoing.put_nowait(message)

    def say(self, type: str, **content: Any) -> None:
        self.incoming.put_nowait({"type": type, **content})

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            return await self.outgoing.get()

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.served


@asynccontextmanager
async def call(
    app: FastAPI, type: str, path: str, headers: dict[str, str], offered: tuple[str, ...] = ()
) -> AsyncIterator[Peer]:
    """Call the application as a server would."""
    peer = Peer()
    peer.hearing.set()
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {
        **SCOPE, "type": type, "method": "POST", "path": path, "raw_path": path.encode(), "headers": raw,
        "subprotocols": offered, "scheme": {"http": "http", "websocket": "ws"}[type],
    }  # fmt: skip
    peer.served = asyncio.create_task(app(scope, peer.incoming.get, peer.send))
    try:
        yield peer
    finally:
        peer.served.cancel()
        await asyncio.gather(peer.served, return_exceptions=True)


@asynccontextmanager
async def post(app: FastAPI, path: str, body: dict[str, Any], accept: str) -> AsyncIterator[Peer]:
    """A POST with a JSON body."""
    headers = {"content-type": "application/json", "accept": accept}
    async with call(app, "http", path, headers) as peer:
        peer.say("http.request", body=json.dumps(body).encode(), more_body=False)
        yield peer


@dataclass
class Socket:
    """A WebSocket's client."""

    peer: Peer

    def say(self, **message: Any) -> None:
        """Send a text frame."""
        self.peer.say("websocket.receive", text=json.dumps(message))

    def say_text(self, text: str) -> None:
        self.peer.say("websocket.receive", text=text)

    def say_bytes(self, data: bytes) -> None:
        self.peer.say("websocket.receive", bytes=data)

    def leave(self) -> None:
        self.peer.say("websocket.disconnect", code=1006)

    async def hear(self) -> dict[str, Any]:
        """The next event."""
        message = await self.peer.hear()
        assert message["type"] == "websocket.send", message
        event: dict[str, Any] = json.loads(message["text"])
        return event

    async def hear_until_end(self, id: str) -> list[dict[str, Any]]:
        """All events of one request; those of others are not looked for."""
        events = [await self.hear()]
        while events[-1]["type"] not in ("done", "error") or events[-1]["id"] != id:
            events.append(await self.hear())
        return events

    async def closed(self) -> int:
        """The close code."""
        message = await self.peer.hear()
        while message["type"] != "websocket.close":
            message = await self.peer.hear()
        code: int = message["code"]
        return code


@asynccontextmanager
async def connect(
    app: FastAPI, headers: dict[str, str] | None = None, offered: tuple[str, ...] = ()
) -> AsyncIterator[Socket]:
    """A WebSocket that has been accepted, with the first of the offered subprotocols if there is one."""
    async with call(app, "websocket", "/v1/segment/stream", headers or {}, offered) as peer:
        peer.say("websocket.connect")
        accepted = await peer.hear()
        assert accepted["type"] == "websocket.accept"
        assert accepted.get("subprotocol") == (offered[0] if offered else None)
        yield Socket(peer)
