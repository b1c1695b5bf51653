"""The shipped nginx configuration before two gateways: streams, sockets, affinity, rolling restarts that lose nothing.

The gateways listen really; their language model is scripted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import connect

from server.client import SegmentClient
from tests.deploy.ingress import SEGMENT, OnPort, two_gateways
from tests.server.asking import as_json
from tests.server.conftest import OpenGateway, open_gateway, photo, runtime
from tests.stand_ins import ScriptedMllm

__all__ = ["open_gateway", "runtime"]


@pytest.fixture
def scripted(open_gateway: OpenGateway) -> tuple[list[ScriptedMllm], OnPort]:
    """Opens gateways on ports; the list has the language model of each."""
    models: list[ScriptedMllm] = []

    @asynccontextmanager
    async def on_port(port: int) -> AsyncIterator[object]:
        model = ScriptedMllm()
        models.append(model)
        async with open_gateway(model) as gateway:
            config = uvicorn.Config(gateway.app, port=port, lifespan="off", log_config=None)
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110  # uvicorn offers nothing to wait for
                await asyncio.sleep(0.01)
            yield gateway
            server.should_exit = True
            await serving

    return models, on_port


async def test_a_stream_passes_as_it_comes(
    scripted: tuple[list[ScriptedMllm], OnPort], tmp_path: Path
) -> None:
    models, on_port = scripted
    async with two_gateways(tmp_path, on_port) as two:
        for model in models:
            model.hanging = {"reason"}
        async with asyncio.timeout(60), SegmentClient(two.url) as client:
            events = client.stream(photo(), "mug")
            seen = [await anext(events) for _ in range(4)]
            assert [event.type for event in seen] == ["accepted", *["reasoning.delta"] * 3]
            await events.aclose()
            while any(model.running for model in models):  # noqa: ASYNC110  # the work ends when its client has left
                await asyncio.sleep(0.01)


async def test_a_websocket_passes(scripted: tuple[list[ScriptedMllm], OnPort], tmp_path: Path) -> None:
    _, on_port = scripted
    async with two_gateways(tmp_path, on_port) as two:
        async with asyncio.timeout(60), connect(f"{two.url.replace('http', 'ws')}/v1/segment/stream") as wire:
            await wire.send(json.dumps({"type": "segment", "id": "a", "prompt": "mug"}))
            await wire.send(photo())
            types = []
            while "done" not in types:
                types.append(json.loads(await wire.recv())["type"])
        assert types[0] == "accepted"


async def test_the_same_affinity_is_the_same_gateway(
    scripted: tuple[list[ScriptedMllm], OnPort], tmp_path: Path
) -> None:
    models, on_port = scripted
    async with (
        two_gateways(tmp_path, on_port) as two,
        httpx.AsyncClient(base_url=two.url, timeout=60) as client,
    ):

        async def gateways_of(keys: list[str]) -> set[int]:
            before = [len(model.calls) for model in models]
            for key in keys:
                response = await client.post(SEGMENT, **as_json(), headers={"X-R2SM-Affinity": key})
                assert response.status_code == 200
            return {number for number, model in enumerate(models) if len(model.calls) > before[number]}

        assert len(await gateways_of(["sha256:one"] * 6)) == 1
        assert await gateways_of([f"sha256:{number}" for number in range(12)]) == {0, 1}
        assert (await client.get("/metrics")).status_code == 404, "figures are for the inside"


async def test_a_rolling_restart_under_load_loses_nothing(
    scripted: tuple[list[ScriptedMllm], OnPort], tmp_path: Path
) -> None:
    models, on_port = scripted
    async with two_gateways(tmp_path, on_port) as two:
        statuses = await two.roll(clients=6)
    assert set(statuses) == {200}
    assert len(models) == 4
    assert all("decide" in model.calls for model in models), "each of them, old and new, had its share"
