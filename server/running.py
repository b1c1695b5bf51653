"""A gateway that listens: engines, application and uvicorn in one context."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI

from engines.errors import MllmUnavailable
from engines.mllm.launcher import ServerStatus, VllmServers
from server.admission import KeysInvalid
from server.app import create_app
from server.client import SegmentClient
from server.opening import open_engines
from server.reading import SettingsInvalid
from server.services import Engines, Services, open_services
from server.settings import Settings
from server.sockets import largest_frame
from server.telemetry.spans import open_spans, tracing_wanted
from server.telemetry.telemetry import Telemetry
from server.wire import bounded_protocol, bounded_websocket

BACKLOG = 2048
POLL_SECONDS = 0.25
START_POLL_SECONDS = 0.01
MOST_PATIENCE = 2
"""After so many wishes to stop nothing is waited for."""
FLUSH_SECONDS = 2
"""How long clients may take the last bytes of their answers when everything has been answered."""

logger = logging.getLogger(__name__)
Progress = Callable[[tuple[ServerStatus, ...]], None]


class _Server(uvicorn.Server):
    """Uvicorn that leaves the signals to its caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that listens at `url`. `servers` are the vLLM servers it started, if it did."""

    url: str
    engines: Engines
    servers: VllmServers | None
    _app: FastAPI
    _server: _Server
    _serving: asyncio.Task[None]
    _shutdown_seconds: float
    _draining: list[asyncio.Task[None]] = field(default_factory=list)

    async def wait_ready(self, timeout: float, progress: Progress | None = None) -> None:
        """Wait until a request could be served; `progress` hears how far the vLLM servers are.

        Raises:
            MllmUnavailable: a vLLM server ended, or it took longer than `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout), SegmentClient(self.url) as client:
                if self.servers is not None:
                    await self.servers.wait_ready(timeout, progress)
                while not await client.ready():  # noqa: ASYNC110  # asks as an outsider would
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            raise MllmUnavailable(f"the gateway was not ready within {timeout:.0f} s") from error

    async def wait_stopped(self) -> None:
        """Wait until the gateway has stopped listening."""
        await asyncio.wait((self._serving,))

    def stop(self) -> None:
        """Take nothing new, finish what is under way, for a while, and stop.

        Called again, end what is under way, with an error each, and stop; once more, stop without.
        """
        if len(self._draining) == MOST_PATIENCE:
            self._server.should_exit = self._server.force_exit = True
            return
        seconds = self._shutdown_seconds
        for drain in self._draining:
            drain.cancel()
            seconds = 0.0
        self._draining.append(asyncio.create_task(self._drain(seconds)))

    async def stopped(self) -> None:
        """Stop, unless that has been asked for already, and wait until it has come about."""
        if not self._draining:
            self.stop()
        await asyncio.gather(self._serving, *self._draining, return_exceptions=True)

    def reload(self, read: Callable[[], Settings]) -> Settings | None:
        """Take on what of new settings needs no restart, and return them.

        Settings that are wrong are logged, and not taken on: None, as before the application has started.
        """
        services = self._services()
        if services is None:
            return None
        try:
            settings = read()
            services.reload(settings)
        except (KeysInvalid, SettingsInvalid) as error:
            logger.error("the settings stay as they were: %s", error)
            return None
        logger.info("keys and limits have been read anew")
        return settings

    def _services(self) -> Services | None:
        """None before the application has started."""
        services: Services | None = getattr(self._app.state, "services", None)
        return services

    async def _drain(self, seconds: float) -> None:
        try:
            services = self._services()
            if services is not None and not await services.drain(seconds):
                logger.warning("not all requests were done within %g s", seconds)
        finally:
            if asyncio.current_task() is self._draining[-1]:  # else another one ends what is under way first
                self._server.should_exit = True


@asynccontextmanager
async def run_gateway(
    settings: Settings, telemetry: Telemetry | None = None
) -> AsyncIterator[RunningGateway]:
    """A listening gateway; it stops with the context, and so do the vLLM servers it started.

    `telemetry` takes the place of what the settings ask for.

    Raises:
        OSError: the address cannot be listened on.
        BundleError, BackendUnavailable: as `open_engines`.
    """
    with _listen(settings.host, settings.port) as listening:
        async with (
            open_telemetry(settings, telemetry) as telemetry,
            open_engines(settings, telemetry) as opened,
        ):
            app = create_app(lambda: open_services(opened.engines, settings, telemetry, opened.launched))
            server = _Server(wire_config(app, settings))
            serving = asyncio.create_task(server.serve([listening]))
            gateway = RunningGateway(
                _url(listening),
                opened.engines,
                opened.servers,
                app,
                server,
                serving,
                settings.shutdown_seconds,
            )
            try:
                await _begun(server, serving)
                yield gateway
            finally:
                await gateway.stopped()


async def _begun(server: _Server, serving: asyncio.Task[None]) -> None:
    """Wait until the application has started, or will not."""
    while not (server.started or serving.done()):  # noqa: ASYNC110  # uvicorn has a flag, no event
        await asyncio.sleep(START_POLL_SECONDS)


def wire_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the application: every bound of a connection that is not the application's own."""
    limits = settings.wire_limits
    return uvicorn.Config(
        app,
        lifespan="on",
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        http=bounded_protocol(limits),
        ws=bounded_websocket(limits),
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_graceful_shutdown=FLUSH_SECONDS,
        ws_max_size=largest_frame(settings.upload_limits.image),
        ws_per_message_deflate=False,  # else a small frame can become a large one, and on the event loop
        ws_ping_interval=settings.heartbeat_seconds,
        ws_ping_timeout=settings.stall_seconds,
    )


@asynccontextmanager
async def open_telemetry(settings: Settings, given: Telemetry | None = None) -> AsyncIterator[Telemetry]:
    """`given`, or metrics and, where the settings or OpenTelemetry's environment ask for them, traces."""
    telemetry = given or Telemetry(
        open_spans(tracing_wanted(settings.tracing)), log_prompts=settings.log_prompts
    )
    try:
        yield telemetry
    finally:
        await telemetry.aclose()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port that is taken is known before anything is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if listening.family == socket.AF_INET6 else f"http://{host}:{port}"
