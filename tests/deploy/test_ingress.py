"""The shipped nginx configuration before two gateways: streams, sockets, affinity, rolling restarts that lose nothing.

The gateways listen really; their language model is scripted, but for the last test, which has real vLLM servers.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import connect

from server.client import SegmentClient
from server.running import run_gateway
from server.settings import Settings
from tests.deploy.dockerfiles import ROOT
from tests.server.asking import as_json
from tests.server.conftest import OpenGateway, open_gateway, photo, runtime
from tests.stand_ins import ScriptedMllm
from tests.tiny_bundle import build_tiny_bundle

if TYPE_CHECKING:
    from tests.vllm_fixture import ServedModel

__all__ = ["open_gateway", "runtime"]

SEGMENT = "/v1/segment"
OnPort = Callable[[int], AbstractAsyncContextManager[object]]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def configuration(folder: Path, port: int, gateways: list[int]) -> Path:
    """The shipped configuration with its addresses and folders changed to ones that are free here, nothing else."""
    text = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text(encoding="utf-8")
    [shipped] = re.findall(r"^ *server gateway:8000( .*;)$", text, re.MULTILINE)
    servers = "\n".join(f"server 127.0.0.1:{one}{shipped}" for one in gateways)
    for old, new in (
        (f"server gateway:8000{shipped}", servers),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
        ("worker_processes auto;", "worker_processes 1;"),
        (" /tmp/", f" {folder}/"),
    ):
        assert old in text
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    return path


@asynccontextmanager
async def ingress(folder: Path, gateways: list[int]) -> AsyncIterator[str]:
    """nginx, listening; yields its URL."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed: the ingress cannot be tried")
    [port] = free_ports(1)
    path = configuration(folder, port, gateways)
    child = await asyncio.create_subprocess_exec(
        *(program, "-c", str(path), "-p", str(folder), "-e", "stderr", "-g", "daemon off;")
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(60), httpx.AsyncClient() as client:
            while not await answers(client, f"{url}/livez"):  # noqa: ASYNC110  # nginx tells nobody
                await asyncio.sleep(0.05)
        yield url
    finally:
        child.terminate()
        await child.wait()


async def answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False


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


@asynccontextmanager
async def two_gateways(folder: Path, on_port: OnPort) -> AsyncIterator[str]:
    ports = free_ports(2)
    async with on_port(ports[0]), on_port(ports[1]), ingress(folder, ports) as url:
        yield url


async def test_a_stream_passes_as_it_comes(
    scripted: tuple[list[ScriptedMllm], OnPort], tmp_path: Path
) -> None:
    models, on_port = scripted
    async with two_gateways(tmp_path, on_port) as url:
        for model in models:
            model.hanging = {"reason"}
        async with asyncio.timeout(60), SegmentClient(url) as client:
            events = client.stream(photo(), "mug")
            seen = [await anext(events) for _ in range(4)]
            assert [event.type for event in seen] == ["accepted", *["reasoning.delta"] * 3]
            await events.aclose()
            while any(model.running for model in models):  # noqa: ASYNC110  # the work ends when its client has left
                await asyncio.sleep(0.01)


async def test_a_websocket_passes(scripted: tuple[list[ScriptedMllm], OnPort], tmp_path: Path) -> None:
    _, on_port = scripted
    async with two_gateways(tmp_path, on_port) as url:
        async with asyncio.timeout(60), connect(f"{url.replace('http', 'ws')}/v1/segment/stream") as wire:
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
    async with two_gateways(tmp_path, on_port) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def gateways_of(keys: list[str]) -> set[int]:
            before = [len(model.calls) for model in models]
            for key in keys:
                response = await client.post(SEGMENT, **as_json(), headers={"X-R2SM-Affinity": key})
                assert response.status_code == 200
            return {number for number, model in enumerate(models) if len(model.calls) > before[number]}

        assert len(await gateways_of(["sha256:one"] * 6)) == 1
        assert await gateways_of([f"sha256:{number}" for number in range(12)]) == {0, 1}
        assert (await client.get("/metrics")).status_code == 404, "figures are for the inside"


async def asked_all_along(url: str, over: asyncio.Event, clients: int) -> list[int]:
    """The status of every answer that so many clients get until it is over; none of them asks twice."""
    statuses: list[int] = []

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            while not over.is_set():
                response = await client.post(SEGMENT, **as_json(objects=1, max_reasoning_tokens=8))
                statuses.append(response.status_code)

    await asyncio.gather(*(ask() for _ in range(clients)))
    return statuses


async def roll(folder: Path, on_port: OnPort, clients: int) -> list[int]:
    """Replace two gateways one after the other while clients ask; returns the status of every answer."""
    ports, over = free_ports(2), asyncio.Event()
    async with AsyncExitStack() as stack:
        stacks = [await stack.enter_async_context(AsyncExitStack()) for _ in ports]
        for port, own in zip(ports, stacks, strict=True):
            await own.enter_async_context(on_port(port))
        url = await stack.enter_async_context(ingress(folder, ports))
        asking = asyncio.create_task(asked_all_along(url, over, clients))
        try:
            for port, own in zip(ports, stacks, strict=True):
                await asyncio.sleep(0.5)
                await own.aclose()
                await asyncio.sleep(0.5)
                await own.enter_async_context(on_port(port))
                await asyncio.sleep(2.5)  # nginx tries it again: fail_timeout is 2 s
        finally:
            over.set()
        return await asking


async def test_a_rolling_restart_under_load_loses_nothing(
    scripted: tuple[list[ScriptedMllm], OnPort], tmp_path: Path
) -> None:
    models, on_port = scripted
    statuses = await roll(tmp_path, on_port, clients=6)
    assert set(statuses) == {200}
    assert len(models) == 4
    assert all("decide" in model.calls for model in models), "each of them, old and new, had its share"


@pytest.mark.vllm
async def test_a_rolling_restart_on_real_vllm_loses_nothing(
    served_model: ServedModel, tmp_path: Path
) -> None:
    bundle = served_model.bundle or build_tiny_bundle(tmp_path / "bundle", served_model.path)

    @asynccontextmanager
    async def on_port(port: int) -> AsyncIterator[object]:
        settings = Settings(
            bundle=bundle,
            port=port,
            vision="torch",
            reason_url=served_model.reason_url,
            concentrate_url=served_model.concentrate_url,
            shutdown_seconds=60,
        )
        async with run_gateway(settings) as gateway:
            await gateway.wait_ready(240)
            yield gateway
            gateway.stop()
            await gateway.wait_stopped()

    folder = tmp_path / "nginx"
    folder.mkdir()
    statuses = await roll(folder, on_port, clients=3)
    assert statuses
    assert set(statuses) == {200}
