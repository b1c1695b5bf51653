"""Spans: what a tracer must offer, one that does nothing, and how the real one is chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from engines.errors import BackendUnavailable

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Spans(Protocol):
    """A tracer. The current span is that of the running task; spans that are begun in it are its children."""

    def request(self, name: str, incoming: Mapping[str, str]) -> AbstractContextManager[object]:
        """A request; `incoming` are its headers, which may name the caller's span."""
        ...

    def stage(self, name: str) -> AbstractContextManager[object]:
        """A stage of the current request."""
        ...

    def past(self, name: str, seconds: float) -> None:
        """A stage that has just ended and took so long."""
        ...

    def describe(self, name: str, attributes: Mapping[str, str | int]) -> None:
        """Name the current span anew and say something about it."""
        ...

    def outgoing(self) -> dict[str, str]:
        """Headers that name the current span to the next service."""
        ...

    def trace_id(self) -> str | None:
        """The current trace's id, 32 hex digits."""
        ...

    def close(self) -> None:
        """Send what has not been sent. Blocks, for a few seconds at most."""
        ...


class NoSpans:
    """Nothing is traced."""

    def request(self, name: str, incoming: Mapping[str, str]) -> AbstractContextManager[object]:
        return nullcontext()

    def stage(self, name: str) -> AbstractContextManager[object]:
        return nullcontext()

    def past(self, name: str, seconds: float) -> None: ...

    def describe(self, name: str, attributes: Mapping[str, str | int]) -> None: ...

    def outgoing(self) -> dict[str, str]:
        return {}

    def trace_id(self) -> str | None:
        return None

    def close(self) -> None: ...


def tracing_wanted(setting: bool | None) -> bool:
    """The setting; without one, whether OpenTelemetry's own environment names a collector."""
    return any(os.environ.get(name) for name in ENDPOINTS) if setting is None else setting


def open_spans(wanted: bool) -> Spans:
    """A tracer that sends to the OTLP collector of OpenTelemetry's environment, or one that does nothing.

    Raises:
        BackendUnavailable: OpenTelemetry is not installed.
    """
    if not wanted:
        return NoSpans()
    try:
        from server.telemetry.otel import otlp_spans
    except ImportError as error:
        raise BackendUnavailable(
            f"tracing needs OpenTelemetry: pip install '.[tracing]' ({error})"
        ) from error
    return otlp_spans()
