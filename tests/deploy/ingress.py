"""The shipped nginx configuration before two gateways, which can be replaced one after the other."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.deploy.dockerfiles import ROOT
from tests.server.asking import as_json

SEGMENT = "/v1/segment"
OnPort = Callable[[int], AbstractAsyncContextManager[object]]
"""A gateway on a port, that answers; leaving the context stops it as SIGTERM does."""


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


@dataclass
class TwoGateways:
    """Both listen on a port of their own; `url` is the ingress."""

    url: str
    ports: list[int]
    _on_port: OnPort
    _stacks: list[AsyncExitStack]

    async def roll(self, clients: int) -> list[int]:
        """Replace them one after the other while clients ask; returns the status of every answer."""
        over = asyncio.Event()
        asking = asyncio.create_task(asked_all_along(self.url, over, clients))
        try:
            for port, own in zip(self.ports, self._stacks, strict=True):
                await asyncio.sleep(0.5)
                await own.aclose()
                await asyncio.sleep(0.5)
                await own.enter_async_context(self._on_port(port))
                await asyncio.sleep(2.5)  # nginx tries it again: fail_timeout is 2 s
        finally:
            over.set()
        return await asking


@asynccontextmanager
async def two_gateways(folder: Path, on_port: OnPort) -> AsyncIterator[TwoGateways]:
    """Two gateways behind nginx, whose files are in `folder`."""
    ports = free_ports(2)
    async with AsyncExitStack() as stack:
        stacks = [await stack.enter_async_context(AsyncExitStack()) for _ in ports]
        for port, own in zip(ports, stacks, strict=True):
            await own.enter_async_context(on_port(port))
        url = await stack.enter_async_context(ingress(folder, ports))
        yield TwoGateways(url, ports, on_port, stacks)
