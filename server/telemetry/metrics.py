"""Every Prometheus metric of the gateway, in one registry, and the page they are read from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
SHARED_DIR = "PROMETHEUS_MULTIPROC_DIR"
GaugeMode = Literal["livesum", "livemin", "livemax"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One metric, as it is asked for in Prometheus (of a histogram, without ``_bucket`` and so on)."""

    name: str
    meaning: str
    labels: tuple[str, ...]


class Metrics:
    """The metrics, by the names that `README.md` lists. All label values come from the gateway or its operator.

    Where the environment names a ``PROMETHEUS_MULTIPROC_DIR`` when the process starts, several processes write
    their values there, and each of them answers for all.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.listed: list[Listed] = []
        self.requests = self._counter(
            "r2sm_requests",
            "Requests that have ended, a WebSocket's each by itself",
            "route",
            "outcome",
            "key",
        )
        self.in_flight = self._gauge("r2sm_requests_in_flight", "Requests that are being served", "livesum")
        self.request_seconds = self._seconds("r2sm_request_seconds", "From a request to its end", "route")
        self.sockets = self._gauge("r2sm_sockets_open", "WebSockets that are open", "livesum")
        self.queue_wait = self._seconds("r2sm_queue_wait_seconds", "From a request to its turn")
        self.stage_seconds = self._seconds("r2sm_stage_seconds", "What a stage took that succeeded", "stage")
        self.ttft = self._seconds("r2sm_ttft_seconds", "From a request to its first reasoning token")
        self.ttfm = self._seconds("r2sm_ttfm_seconds", "From a request to its first mask")
        self.batch_size = self._histogram("r2sm_batch_size", "Items in a batch", SIZES, "stage")
        self.reasoning_tokens = self._counter("r2sm_reasoning_tokens", "Tokens of reasoning written")
        self.prompt_tokens = self._counter("r2sm_prompt_tokens", "Tokens of prompts read, images included")
        self.decisions = self._counter(
            "r2sm_decisions",
            "Which mask was chosen, and whether by the model or the request",
            "mask_type",
            "source",
        )
        self.masks = self._counter("r2sm_masks", "Masks that were sent", "mask_type")
        self._name_caches()
        self._name_servers()
        self.build_info = self._gauge(
            "r2sm_build_info", "Always 1; what is running", "livemax", "version", "model", "vision"
        )
        self._shared = SHARED_DIR in os.environ
        if not self._shared:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self.registry)

    def _name_caches(self) -> None:
        self.cache_requests = self._counter("r2sm_cache_requests", "Look-ups in a cache", "cache")
        self.cache_hits = self._counter(
            "r2sm_cache_hits", "Look-ups that found their value", "cache", "level"
        )
        self.cache_joined = self._counter(
            "r2sm_cache_joined", "Look-ups that shared a value in the making", "cache"
        )
        self.cache_bad_values = self._counter(
            "r2sm_cache_bad_values", "Values in Redis that were damaged or foreign", "cache"
        )
        self.redis_errors = self._counter("r2sm_redis_errors", "Operations on Redis that failed", "kind")
        self.redis_breaker = self._gauge(
            "r2sm_redis_breaker_state",
            "0 closed, 1 half open, 2 open: Redis is not asked",
            "livemax",
            "breaker",
        )

    def _name_servers(self) -> None:
        self.vllm_up = self._gauge(
            "r2sm_vllm_up",
            "Whether a vLLM server may be asked: 1, or 0 when it is left out",
            "livemin",
            "role",
            "server",
        )
        self.vllm_outstanding = self._gauge(
            "r2sm_vllm_outstanding", "Calls that a vLLM server is working on", "livesum", "role", "server"
        )
        self.vllm_ejections = self._counter(
            "r2sm_vllm_ejections", "Times that a vLLM server was left out", "role", "server"
        )
        self.vllm_retries = self._counter(
            "r2sm_vllm_retries", "Calls made again on another vLLM server", "role"
        )

    def page(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the text format that `accept` asks for, and its media type. Reads files if shared."""
        encode, media_type = choose_encoder(accept)
        registry = self.registry
        if self._shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return encode(registry), media_type

    def close(self) -> None:
        """Take this process's gauges out of what is shared."""
        if self._shared:
            mark_process_dead(os.getpid())

    def table(self) -> str:
        """The metrics as a table in Markdown, for the README."""
        rows = (f"| `{one.name}` | {', '.join(one.labels)} | {one.meaning} |" for one in self.listed)
        return "\n".join(("| metric | labels | meaning |", "|---|---|---|", *rows))

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        self.listed.append(Listed(f"{name}_total", meaning, labels))
        return Counter(name, meaning, labels, registry=self.registry)

    def _seconds(self, name: str, meaning: str, *labels: str) -> Histogram:
        return self._histogram(name, meaning, SECONDS, *labels)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], *labels: str) -> Histogram:
        self.listed.append(Listed(name, meaning, labels))
        return Histogram(name, meaning, labels, registry=self.registry, buckets=buckets)

    def _gauge(self, name: str, meaning: str, mode: GaugeMode, *labels: str) -> Gauge:
        self.listed.append(Listed(name, meaning, labels))
        return Gauge(name, meaning, labels, registry=self.registry, multiprocess_mode=mode)


if __name__ == "__main__":
    print(Metrics().table())
