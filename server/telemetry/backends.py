"""What the vLLM servers and the caches tell, as metrics."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from server.telemetry.metrics import Metrics
from server.telemetry.spans import Spans

BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}


class ServerMetrics:
    """Implements `engines.observers.MllmObserver`: the servers' states, and the trace that calls belong to."""

    def __init__(self, metrics: Metrics, spans: Spans) -> None:
        self._metrics = metrics
        self._spans = spans

    def headers(self) -> Mapping[str, str]:
        return self._spans.outgoing()

    def server(self, role: str, url: str, *, fit: bool, outstanding: int) -> None:
        self._metrics.vllm_up.labels(role, server_label(url)).set(fit)
        self._metrics.vllm_outstanding.labels(role, server_label(url)).set(outstanding)

    def ejected(self, role: str, url: str) -> None:
        self._metrics.vllm_ejections.labels(role, server_label(url)).inc()

    def retried(self, role: str) -> None:
        self._metrics.vllm_retries.labels(role).inc()


class CacheMetrics:
    """Look-ups in two-level caches and the health of the shared level; calls as `Metrics` names them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def hit(self, cache: str, level: str) -> None:
        """A value was found in this level."""
        self._metrics.cache_requests.labels(cache).inc()
        self._metrics.cache_hits.labels(cache, level).inc()

    def joined(self, cache: str) -> None:
        """A value was in the making already, and was shared."""
        self._metrics.cache_requests.labels(cache).inc()
        self._metrics.cache_joined.labels(cache).inc()

    def miss(self, cache: str) -> None:
        """No level had the value."""
        self._metrics.cache_requests.labels(cache).inc()

    def bad_value(self, cache: str) -> None:
        """The shared level had something that is damaged or foreign."""
        self._metrics.cache_bad_values.labels(cache).inc()

    def trouble(self, kind: str) -> None:
        """An operation on the shared level failed."""
        self._metrics.redis_errors.labels(kind).inc()

    def breaker(self, name: str, state: str) -> None:
        """A circuit breaker is in this state: ``closed``, ``half_open`` or ``open``."""
        self._metrics.redis_breaker.labels(name).set(BREAKER_STATES[state])


def server_label(url: str) -> str:
    """Host and port of a server; a user and password in its URL are nobody's business."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    return host if parts.port is None else f"{host}:{parts.port}"
