"""Requests that are given up on real vLLM: their work there ends, and soon."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import httpx
import pytest
from websockets.asyncio.client import connect

from server.client import SegmentClient, SegmentFailed
from server.running import RunningGateway
from tests.server.conftest import photo
from tests.vllm_fixture import ServedModel

pytestmark = pytest.mark.vllm

SOON = 1.0  # seconds
ATTEMPTS = 3
"""A machine that is busy with other work may be late once."""
LONG = 400  # tokens of reasoning
WRITTEN = ("vllm:generation_tokens_total",)
RUNNING = ("vllm:num_requests_running", "vllm:num_requests_waiting")


async def metric(url: str, names: tuple[str, ...]) -> float:
    """The sum of some of a vLLM server's metrics."""
    async with httpx.AsyncClient(base_url=url) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(names))


async def stopped(served: ServedModel) -> None:
    """Wait until neither server has anything to do."""
    urls = (served.reason_url, served.concentrate_url)
    async with asyncio.timeout(60):
        while any([await metric(url, RUNNING) for url in urls]):  # noqa: ASYNC110  # vLLM tells nobody
            await asyncio.sleep(0.02)


async def leave_events(gateway: RunningGateway, image: bytes, drafts: int) -> None:
    """Read server-sent events up to the first words of the reasoning, then drop the connection."""
    async with SegmentClient(gateway.url) as client:
        asked = client.stream(image, "mug", max_reasoning_tokens=LONG, drafts=drafts)
        async with aclosing(asked) as events:
            async for event in events:
                if event.type == "reasoning.delta":
                    return


async def leave_socket(gateway: RunningGateway, image: bytes, drafts: int) -> None:
    """The same on a WebSocket, which is dropped without a goodbye."""
    socket = await connect(gateway.url.replace("http", "ws") + "/v1/segment/stream")
    data = {"data": base64.b64encode(image).decode()}
    options = {"prompt": "mug", "max_reasoning_tokens": LONG, "drafts": drafts}
    await socket.send(json.dumps({"type": "segment", "id": "a", "image": data, **options}))
    async for frame in socket:
        if json.loads(frame)["type"] == "reasoning.delta":
            break
    socket.transport.abort()


async def to_the_end(gateway: RunningGateway, image: bytes) -> int:
    """How many tokens the reasoning has if nobody leaves."""
    async with SegmentClient(gateway.url) as client:
        return (await client.segment(image, "mug", max_reasoning_tokens=LONG)).usage.reasoning_tokens


@pytest.mark.parametrize("drafts", [0, 8])
@pytest.mark.parametrize("leave", [leave_events, leave_socket])
async def test_a_client_that_vanishes_in_the_middle_frees_vllm_within_a_second(
    real: RunningGateway,
    served_model: ServedModel,
    leave: Callable[[RunningGateway, bytes, int], Awaitable[None]],
    drafts: int,
) -> None:
    took, unwritten = [], []
    for attempt in range(ATTEMPTS):
        image = photo((100 + attempt, 90))
        whole = await to_the_end(real, image)
        before = await metric(served_model.reason_url, WRITTEN)
        await leave(real, image, drafts)
        left = time.monotonic()
        await stopped(served_model)
        took.append(time.monotonic() - left)
        unwritten.append(whole - (await metric(served_model.reason_url, WRITTEN) - before))
    assert min(took) < SOON
    assert max(unwritten) > 0, "no reasoning was broken off before its natural end"


@pytest.mark.parametrize("why", ["deadline", "client"])
async def test_abandoned_work_stops_in_vllm(
    real: RunningGateway, served_model: ServedModel, why: str
) -> None:
    """Several long reasonings are given up, by their deadline or by their clients; vLLM is soon idle."""
    timeout_ms = 300 if why == "deadline" else 60_000
    async with SegmentClient(real.url) as client:
        asked = [
            asyncio.create_task(
                client.segment(
                    photo((100 + i, 80)),
                    f"mug {i}",
                    max_reasoning_tokens=400,
                    objects=1,
                    timeout_ms=timeout_ms,
                )
            )
            for i in range(6)
        ]
        await asyncio.sleep(0.3)
        if why == "client":
            for task in asked:
                task.cancel()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
    given_up = [error for error in outcomes if isinstance(error, SegmentFailed | asyncio.CancelledError)]
    assert given_up
    assert all(error.status == 504 for error in given_up if isinstance(error, SegmentFailed))
    await stopped(served_model)
