"""Spans by OpenTelemetry; imported only where tracing is on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.version import PACKAGE, version


class OtelSpans:
    """Spans of one tracer provider; W3C trace context comes in and goes out."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(PACKAGE)
        self._context = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, name: str, incoming: Mapping[str, str]) -> Iterator[None]:
        """A server span, below the caller's if `incoming` has a ``traceparent``, and else below the current one."""
        parent = self._context.extract(incoming) if "traceparent" in incoming else None
        with self._tracer.start_as_current_span(name, parent, SpanKind.SERVER):
            yield

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        with self._tracer.start_as_current_span(name):
            yield

    def past(self, name: str, seconds: float) -> None:
        end = time.time_ns()
        self._tracer.start_span(name, start_time=end - int(seconds * 1e9)).end(end)

    def describe(self, name: str, attributes: Mapping[str, str | int]) -> None:
        span = trace.get_current_span()
        span.update_name(name)
        span.set_attributes(attributes)

    def outgoing(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        self._context.inject(headers)
        return headers

    def trace_id(self) -> str | None:
        context = trace.get_current_span().get_span_context()
        return trace.format_trace_id(context.trace_id) if context.is_valid else None

    def close(self) -> None:
        self._provider.shutdown()


def otlp_spans() -> OtelSpans:
    """Spans that go in batches, over HTTP, to the collector that OpenTelemetry's environment variables name."""
    own = Resource({SERVICE_NAME: PACKAGE, SERVICE_VERSION: version()})
    provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OtelSpans(provider)
