"""A local server in vLLM's place that keeps connections open and can take no new ones, as a pod whose name is gone."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

VECTOR = {"index": 0, "object": "embedding", "embedding": base64.b64encode(bytes(8)).decode()}


class LastingServer:
    """`asked` counts its calls; what streams waits between "a" and "b" while `middle` is not set."""

    def __init__(self) -> None:
        self.asked = 0
        self.middle = asyncio.Event()
        self.middle.set()
        self.port = 0
        app = web.Application()
        app.router.add_get("/health", self._well)
        app.router.add_post("/v1/embeddings", self._embed)
        app.router.add_post("/v1/chat/completions", self._write)
        self.runner = web.AppRunner(app)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Take connections, always at the same port."""
        self._site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await self._site.start()
        _, self.port = self.runner.addresses[0][:2]

    async def shut(self) -> None:
        """Take no new connections; those that are open stay."""
        await self._site.stop()

    async def _well(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def _embed(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"data": [VECTOR]})

    async def _write(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_event({"content": "a"}))
        await self.middle.wait()
        await response.write(_event({"content": "b"}, "stop") + b"data: [DONE]\n\n")
        await asyncio.sleep(0.02)  # vLLM's body ends a little behind its last event, too
        return response


def _event(delta: dict[str, str], reason: str | None = None) -> bytes:
    return f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': reason}]})}\n\n".encode()


@asynccontextmanager
async def lasting_server() -> AsyncIterator[LastingServer]:
    """Serve on a free port of the loopback interface."""
    server = LastingServer()
    await server.runner.setup()
    await server.open()
    try:
        yield server
    finally:
        await server.runner.cleanup()
