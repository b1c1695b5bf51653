"""A gateway that starts one vLLM server and taps it: every way to ask ends in masks, also all at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from server.client import SegmentClient
from server.events import DraftEvent, MaskEvent
from server.running import RunningGateway, run_gateway
from server.settings import Settings
from tests.server.conftest import photo
from tests.vllm_fixture import CONFIG, START_SECONDS, demo_bundle

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
async def tapped() -> AsyncIterator[RunningGateway]:
    bundle = demo_bundle()
    if bundle is None:
        pytest.skip("no demo bundle: a random model ends no reasoning")
    settings = Settings(bundle=bundle, port=0, vision="torch", concentrate="tap", vllm=CONFIG)
    async with run_gateway(settings) as gateway:
        await gateway.wait_ready(START_SECONDS)
        yield gateway


async def test_only_a_reason_server_runs(tapped: RunningGateway) -> None:
    async with httpx.AsyncClient(base_url=tapped.url) as http:
        assert (await http.get("/readyz")).status_code == 200
        metrics = (await http.get("/metrics")).text
        assert (await http.get("/metrics/vllm/reason")).status_code == 200
        assert (await http.get("/metrics/vllm/concentrate")).status_code == 404
    assert 'role="reason"' in metrics
    assert 'role="concentrate"' not in metrics


async def test_every_length_of_reasoning_ends_in_masks(tapped: RunningGateway) -> None:
    async with SegmentClient(tapped.url) as client:
        for reasoning in ("full", "brief", "none"):
            response = await client.segment(photo(), "the mug", reasoning=reasoning, objects=2)
            assert [mask.object for mask in response.masks] == [0, 1]
            assert "foresee" not in response.timings_ms, "it would only read twice what it reads anyway"


async def test_both_masks_are_those_that_either_type_alone_gives(tapped: RunningGateway) -> None:
    image = photo((320, 200))
    async with SegmentClient(tapped.url) as client:
        both = await client.segment(image, "the mug", mask_type="both", objects=1)
        for mask in both.masks:
            alone = await client.segment(image, "the mug", mask_type=mask.mask_type, objects=1)
            assert [one.area for one in alone.masks] == pytest.approx([mask.area], rel=0.02, abs=20)


async def test_drafts_and_several_prompts_on_a_new_image_at_once(tapped: RunningGateway) -> None:
    """All of them want to bring the image first; vLLM would take the second one for known."""
    image = photo((260, 220))

    async def ask(client: SegmentClient, prompt: str) -> list[type]:
        return [type(event) async for event in client.stream(image, prompt, objects=1, drafts=1)]

    async with SegmentClient(tapped.url) as client:
        alone = await ask(client, "the mug")
        told = await asyncio.gather(*(ask(client, f"the {what}") for what in ("mug", "box", "lamp", "vase")))
    assert alone.index(DraftEvent) < alone.index(MaskEvent)
    assert all(MaskEvent in events for events in told)
