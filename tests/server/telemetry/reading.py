"""Reads a gateway's metrics as Prometheus would."""

from __future__ import annotations

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


async def scrape(client: httpx.AsyncClient, path: str = "/metrics") -> dict[str, Metric]:
    """The metric families of a page, by name; counters without their ``_total``."""
    response = await client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    """The value of the one sample of that name that has these labels; 0 if there is none."""
    found = [
        one.value
        for family in families.values()
        for one in family.samples
        if one.name == sample and labels.items() <= one.labels.items()
    ]
    assert len(found) <= 1, f"{sample} {labels} is ambiguous"
    return found[0] if found else 0.0
