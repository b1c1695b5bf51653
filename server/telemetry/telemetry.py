"""Telemetry: the gateway's metrics and spans, and the beginning and the end of everything that they measure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

from server.telemetry.backends import CacheMetrics, ServerMetrics
from server.telemetry.metrics import Metrics
from server.telemetry.pipeline import PipelineTelemetry
from server.telemetry.record import CANCELLED, OK, Record, current, sane_id, working_for
from server.telemetry.spans import NoSpans, Spans
from server.version import version

CLOSED = "closed"

access = logging.getLogger("server.access")


class Telemetry:
    """`pipeline`, `servers` and `caches` are what the engines tell theirs to. Use it as long as the gateway lives."""

    def __init__(self, spans: Spans | None = None, *, log_prompts: bool = False) -> None:
        """`log_prompts`: prompts may go into the log."""
        self.metrics = Metrics()
        self.spans = spans or NoSpans()
        self.pipeline = PipelineTelemetry(self.metrics, self.spans, log_prompts)
        self.servers = ServerMetrics(self.metrics, self.spans)
        self.caches = CacheMetrics(self.metrics)

    async def aclose(self) -> None:
        """Send the last spans, and take back the values that only a living process has."""
        await asyncio.to_thread(self.spans.close)
        self.metrics.close()

    def running(self, model: str, vision: str) -> None:
        """What this process serves, for ``r2sm_build_info``."""
        self.metrics.build_info.labels(version(), model, vision).set(1)

    @contextmanager
    def serving(self, record: Record, incoming: Mapping[str, str]) -> Iterator[None]:
        """One request: traced below the span that its headers name, counted and, when it has ended, logged."""
        span = nullcontext() if record.quiet else self.spans.request(record.method, incoming)
        with working_for(record), span:
            record.trace = self.spans.trace_id()
            self.metrics.in_flight.inc(not record.quiet)
            try:
                yield
            except asyncio.CancelledError:
                record.outcome = CANCELLED
                raise
            except Exception:
                record.outcome = record.outcome or "internal"
                raise
            finally:
                self.metrics.in_flight.dec(not record.quiet)
                self._count(record)
                self._log(record)

    @contextmanager
    def connected(self, record: Record, incoming: Mapping[str, str]) -> Iterator[None]:
        """One WebSocket; its requests are told apart by `follow`."""
        with working_for(record), self.spans.request(record.method, incoming):
            record.trace = self.spans.trace_id()
            self.metrics.sockets.inc()
            try:
                yield
            finally:
                self.metrics.sockets.dec()
                record.outcome = CLOSED
                self._log(record)

    async def follow(self, work: Callable[[], Awaitable[None]], number: int) -> None:
        """One request of many on a connection, as a request of its own."""
        connection = current() or Record(sane_id(None), "WS")
        record = Record(f"{connection.id}.{number}", connection.method, connection.route, key=connection.key)
        with self.serving(record, {}):
            await work()
            record.outcome = record.outcome or (OK if record.done else CANCELLED)

    def _count(self, record: Record) -> None:
        if record.quiet:
            return
        self.metrics.requests.labels(record.route, record.outcome, record.key).inc()
        self.metrics.request_seconds.labels(record.route).observe(record.seconds)

    def _log(self, record: Record) -> None:
        name = f"{record.method} {record.route}"
        told: dict[str, str | int] = {"r2sm.request_id": record.id, "r2sm.outcome": record.outcome}
        if record.status is not None:
            told["http.response.status_code"] = record.status
        self.spans.describe(name, told)
        level = logging.DEBUG if record.quiet else logging.INFO
        milliseconds = round(record.seconds * 1000, 1)
        access.log(
            level, "%s: %s in %g ms", name, record.outcome, milliseconds, extra=_fields(record, milliseconds)
        )


def _fields(record: Record, milliseconds: float) -> dict[str, object]:
    return {
        "route": record.route,
        "outcome": record.outcome,
        "status": record.status,
        "duration_ms": milliseconds,
        "stages_ms": {name: round(seconds * 1000, 2) for name, seconds in record.stages.items()},
        "prompts": record.prompts,
    }
