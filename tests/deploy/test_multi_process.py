"""What a cluster runs, as processes of this machine: nginx, two gateways, both real vLLM servers, a Redis."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from server.client import SegmentClient
from tests.deploy.dockerfiles import ROOT
from tests.deploy.ingress import SEGMENT, OnPort, TwoGateways, answers, two_gateways
from tests.redis_fixture import RedisServer
from tests.server.asking import as_json
from tests.server.conftest import photo
from tests.server.telemetry.reading import scrape, value
from tests.tiny_bundle import build_tiny_bundle

if TYPE_CHECKING:
    from tests.vllm_fixture import ServedModel

START_SECONDS = 240.0
SHORT: dict[str, Any] = {"objects": 1, "max_reasoning_tokens": 8}


def in_processes(*options: str) -> OnPort:
    """Gateways as `r2sm serve` starts them; SIGTERM ends each, which goes by itself and says that all is well."""

    @asynccontextmanager
    async def on_port(port: int) -> AsyncIterator[object]:
        serve = ("-c", "from server.cli import main; main()", "serve", "--port", str(port), *options)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "R2SM_REDIS_BUDGET_MS": "5000"}
        process = await asyncio.create_subprocess_exec(sys.executable, *serve, env=environment)
        try:
            async with asyncio.timeout(START_SECONDS), httpx.AsyncClient(timeout=60) as client:
                while not await answers(client, f"http://127.0.0.1:{port}/readyz"):
                    assert process.returncode is None, "the gateway ended at once"
                    await asyncio.sleep(0.25)
            yield process
            process.terminate()
            async with asyncio.timeout(START_SECONDS):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return on_port


@pytest.mark.vllm
@pytest.mark.timeout(1500)  # six servers are started on cores that others may be using
async def test_streams_affinity_a_shared_cache_and_a_rolling_restart_that_loses_nothing(
    served_model: ServedModel, redis: RedisServer, tmp_path: Path
) -> None:
    bundle = served_model.bundle or build_tiny_bundle(tmp_path / "bundle", served_model.path)
    folder = tmp_path / "nginx"
    folder.mkdir()
    on_port = in_processes(
        *("--bundle", str(bundle), "--vision", "torch", "--redis-url", redis.url),
        *("--reason-url", served_model.reason_url, "--concentrate-url", served_model.concentrate_url),
    )
    async with two_gateways(folder, on_port) as two:
        await streams(two)
        await keeps_to_one_gateway(two)
        await encodes_once_for_both(two)
        statuses = await two.roll(clients=3)
        await encodes_once_for_both(two, width=90)
    assert statuses
    assert set(statuses) == {200}


async def streams(two: TwoGateways) -> None:
    async with SegmentClient(two.url) as client:
        types = [event.type async for event in client.stream(photo(), "the mug", **SHORT)]
    assert types[0] == "accepted"
    assert "reasoning.delta" in types
    assert types[-1] == "done"


async def asked(two: TwoGateways) -> list[float]:
    """The requests that each gateway has answered."""
    counts = []
    for port in two.ports:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            requests = (await scrape(client))["r2sm_requests"].samples
            counts.append(sum(one.value for one in requests if one.name == "r2sm_requests_total"))
    return counts


async def keeps_to_one_gateway(two: TwoGateways) -> None:
    before = await asked(two)
    async with httpx.AsyncClient(base_url=two.url, timeout=120) as client:
        for _ in range(4):
            response = await client.post(
                SEGMENT, **as_json(**SHORT), headers={"X-R2SM-Affinity": "sha256:one"}
            )
            assert response.status_code == 200
    assert sorted(now - then for now, then in zip(await asked(two), before, strict=True)) == [0, 4]


async def encodes_once_for_both(two: TwoGateways, width: int = 80) -> None:
    """What one gateway has encoded the other finds in Redis."""
    found = []
    for port in two.ports:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            before = value(await scrape(client), "r2sm_cache_hits_total", cache="embedding", level="redis")
            response = await client.post(SEGMENT, **as_json(image=photo((width, 60)), **SHORT))
            assert response.status_code == 200
            after = value(await scrape(client), "r2sm_cache_hits_total", cache="embedding", level="redis")
            found.append(after - before)
    assert found == [0, 1]
