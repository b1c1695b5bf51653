"""On real vLLM, beside servers that are not there: requests go on, and the metrics say what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from server.client import SegmentClient
from server.running import RunningGateway, run_gateway
from server.settings import Settings
from server.telemetry.backends import server_label
from server.telemetry.pages import VllmPages
from tests.server.conftest import photo
from tests.server.telemetry.reading import scrape, value
from tests.tiny_bundle import build_tiny_bundle

if TYPE_CHECKING:
    from tests.vllm_fixture import ServedModel

pytestmark = pytest.mark.vllm

NOBODY = "http://127.0.0.1:9"
REQUESTS = 8


@pytest.fixture
async def halved(served_model: ServedModel, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A gateway half of whose vLLM servers are away."""
    bundle = served_model.bundle or build_tiny_bundle(tmp_path / "bundle", served_model.path)
    settings = Settings(
        bundle=bundle,
        port=0,
        vision="torch",
        reason_url=(NOBODY, served_model.reason_url),
        concentrate_url=(served_model.concentrate_url, NOBODY),
    )
    async with run_gateway(settings) as gateway:
        await gateway.wait_ready(240)
        yield gateway


async def test_requests_succeed_while_half_of_the_servers_are_away(
    halved: RunningGateway, served_model: ServedModel
) -> None:
    async with SegmentClient(halved.url) as client:
        images = [
            photo((100 + 20 * number, 80)) for number in range(REQUESTS)
        ]  # half of them belong to nobody
        answers = await asyncio.gather(
            *(client.segment(image, "mug", objects=1, max_reasoning_tokens=8) for image in images)
        )
    assert all(len(answer.masks) == 1 for answer in answers)
    async with httpx.AsyncClient(base_url=halved.url) as http:
        families = await scrape(http)
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.get("/metrics/vllm/reason")).status_code == 404, "they run elsewhere"
    assert value(families, "r2sm_requests_total", route="/v1/segment", outcome="ok") == REQUESTS
    written = sum(answer.usage.reasoning_tokens for answer in answers)
    assert value(families, "r2sm_reasoning_tokens_total") == written > 0
    for stage in ("reason", "decide", "concentrate", "decode"):
        assert value(families, "r2sm_stage_seconds_count", stage=stage) == REQUESTS
    for role, url in (("reason", served_model.reason_url), ("concentrate", served_model.concentrate_url)):
        assert value(families, "r2sm_vllm_up", role=role, server=server_label(url)) == 1
        assert value(families, "r2sm_vllm_up", role=role, server=server_label(NOBODY)) == 0
        assert value(families, "r2sm_vllm_ejections_total", role=role, server=server_label(NOBODY)) >= 1
        assert value(families, "r2sm_vllm_outstanding", role=role, server=server_label(url)) == 0


async def test_vllms_own_metrics_can_be_read_through_the_gateway(served_model: ServedModel) -> None:
    pages = VllmPages({"reason": served_model.reason_url})
    page, media_type = await pages.fetch("reason")
    assert b"vllm:num_requests_running" in page
    assert media_type.startswith("text/plain")
