"""A gateway under test that really listens, with the bounds on its connections that the real one has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.running import wire_config
from server.settings import Settings
from server.wire import WireLimits, bounded_protocol, bounded_websocket
from tests.server.conftest import Gateway
from tests.server.listening import serving


@asynccontextmanager
async def listening(
    gateway: Gateway, limits: WireLimits | None = None, **settings: object
) -> AsyncIterator[int]:
    """The port at which an opened gateway listens; its bounds are those of the settings, or `limits`."""
    config = wire_config(gateway.app, Settings.model_validate(settings))
    config.lifespan, config.port = "off", 0
    if limits is not None:
        config.http, config.ws = bounded_protocol(limits), bounded_websocket(limits)
    async with serving(config) as port:
        yield port
