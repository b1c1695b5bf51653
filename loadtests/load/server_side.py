"""What a server's own metrics say about a run: cache hits, and waits that no client sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loadtests.load.figures import CACHES, Figures
from server.bearer import bearer

SECONDS = 5.0
PAGES = {"gateway": "/metrics", "reason": "/metrics/vllm/reason", "concentrate": "/metrics/vllm/concentrate"}
WAITS = {
    "queue_wait_ms": ("gateway", "r2sm_queue_wait_seconds"),
    "reason_wait_ms": ("reason", "vllm:request_queue_time_seconds"),
    "concentrate_wait_ms": ("concentrate", "vllm:request_queue_time_seconds"),
}
Sums = dict[str, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of the gateway and of the vLLM servers it started, by page and name; without what could not be read."""

    sums: Sums


def read_metrics(
    url: str, key: str | None, tell: Callable[[str], None], transport: httpx.BaseTransport | None = None
) -> Reading:
    """Read all pages that this machine may read; one that holds something else is told of and left out."""
    sums: Sums = {}
    with httpx.Client(
        base_url=url, headers=bearer(key), timeout=SECONDS, trust_env=False, transport=transport
    ) as http:
        for name, path in PAGES.items():
            try:
                response = http.get(path)
            except httpx.HTTPError:
                continue
            if not response.is_success:
                continue
            try:
                found = page_sums(response.text)
            except ValueError as error:
                tell(f"{path} of the server holds no metrics: {error}")
                continue
            sums |= {f"{name} {metric}": value for metric, value in found.items()}
    return Reading(sums)


def page_sums(page: str) -> Sums:
    """The samples of a page, added up over all labels but ``cache``. Raises `ValueError` for what is no such page."""
    sums: Sums = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name = " ".join(filter(None, (sample.name, sample.labels.get("cache"))))
            sums[name] = sums.get(name, 0.0) + sample.value
    return sums


def between(before: Reading, after: Reading) -> Figures:
    """The figures of the time between two readings."""

    def grown(page: str, name: str) -> float:
        key = f"{page} {name}"
        return after.sums.get(key, 0.0) - before.sums.get(key, 0.0)

    figures: Figures = {}
    for cache in CACHES:
        if (asked := grown("gateway", f"r2sm_cache_requests_total {cache}")) > 0:
            figures[f"cache_hits_{cache}"] = grown("gateway", f"r2sm_cache_hits_total {cache}") / asked
    for figure, (page, name) in WAITS.items():
        if (count := grown(page, f"{name}_count")) > 0:
            figures[figure] = 1000 * grown(page, f"{name}_sum") / count
    return figures
