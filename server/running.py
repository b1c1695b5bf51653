"""A gateway that listens: engines, application and uvicorn in one context."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn

from engines.errors import MllmUnavailable
from engines.mllm.launcher import ServerStatus, VllmServers
from server.app import create_app
from server.client import SegmentClient
from server.opening import open_engines
from server.services import Engines, open_services
from server.settings import Settings
from server.sockets import largest_frame
from server.telemetry.spans import open_spans, tracing_wanted
from server.telemetry.telemetry import Telemetry

BACKLOG = 2048
POLL_SECONDS = 0.25

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
    _server: _Server
    _serving: asyncio.Task[None]

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
        """Finish the requests under way, for a while, and stop; called again, stop at once."""
        self._server.force_exit = self._server.should_exit
        self._server.should_exit = True


@asynccontextmanager
async def run_gateway(settings: Settings) -> AsyncIterator[RunningGateway]:
    """A listening gateway; it stops with the context, and so do the vLLM servers it started.

    Raises:
        OSError: the address cannot be listened on.
        BundleError, BackendUnavailable: as `open_engines`.
    """
    with _listen(settings.host, settings.port) as listening:
        async with open_telemetry(settings) as telemetry, open_engines(settings, telemetry) as opened:
            app = create_app(lambda: open_services(opened.engines, settings, telemetry, opened.launched))
            config = uvicorn.Config(
                app,
                lifespan="on",
                backlog=BACKLOG,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=settings.shutdown_seconds,
                ws_max_size=largest_frame(settings.upload_limits.image),
                ws_ping_interval=settings.heartbeat_seconds,
                ws_ping_timeout=settings.stall_seconds,
            )
            server = _Server(config)
            serving = asyncio.create_task(server.serve([listening]))
            gateway = RunningGateway(_url(listening), opened.engines, opened.servers, server, serving)
            try:
                yield gateway
            finally:
                server.should_exit = True
                await asyncio.gather(serving, return_exceptions=True)


@asynccontextmanager
async def open_telemetry(settings: Settings) -> AsyncIterator[Telemetry]:
    """Metrics and, where the settings or OpenTelemetry's environment ask for them, traces."""
    spans = open_spans(tracing_wanted(settings.tracing))
    telemetry = Telemetry(spans, log_prompts=settings.log_prompts)
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
