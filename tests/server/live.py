"""A gateway under test that really listens, with the bounds on its connections that the real one has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from server.running import wire_config
from server.settings import Settings
from server.wire import WireLimits, bounded_protocol, bounded_websocket
from tests.server.conftest import Gateway


@asynccontextmanager
async def listening(gateway: Gateway, limits: WireLimits | None = None) -> AsyncIterator[int]:
    """The port at which an opened gateway listens."""
    config = wire_config(gateway.app, Settings())
    config.lifespan, config.port = "off", 0
    config.http, config.ws = (
        bounded_protocol(limits or WireLimits()),
        bounded_websocket(limits or WireLimits()),
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn offers nothing to wait for
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving
