"""The preStop hook of vLLM's pods: it waits for the work, not for ever, and for nothing where nothing answers."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.k8s.overlays import ROOT

if TYPE_CHECKING:
    from tests.vllm_fixture import ServedModel

SCRIPT = ROOT / "k8s" / "base" / "drain_vllm.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("drain_vllm", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.POLL_SECONDS = 0.01
    return module


@asynccontextmanager
async def scripted(*left: int) -> AsyncIterator[tuple[int, list[int]]]:
    """A server whose metrics say that so many requests are left, one number after the other; the last one stays."""
    asked: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.append(left[min(len(asked), len(left) - 1)])
        body = (
            f'vllm:num_requests_running{{engine="0"}} {asked[-1]}.0\n'
            'vllm:num_requests_waiting{engine="0"} 0.0\n'
            'vllm:num_requests_waiting_by_reason{engine="0",reason="x"} 7.0\n'
        )
        writer.write(f"HTTP/1.0 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked


async def test_it_waits_until_the_server_is_idle(script: Any) -> None:
    async with scripted(3, 1, 0) as (port, asked):
        assert "nothing is left" in await asyncio.to_thread(script.drain, port, 0.0, 60.0)
    assert asked == [3, 1, 0]


async def test_it_does_not_wait_for_ever(script: Any) -> None:
    async with scripted(1) as (port, _):
        assert "time is up" in await asyncio.to_thread(script.drain, port, 0.0, 0.2)


def test_a_server_that_is_away_needs_no_waiting(script: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "away" in script.drain(port, 0.0, 60.0)


@pytest.mark.vllm
async def test_it_sees_what_a_real_vllm_is_working_on(script: Any, served_model: ServedModel) -> None:
    port = httpx.URL(served_model.reason_url).port
    assert "nothing is left" in await asyncio.to_thread(script.drain, port, 0.0, 60.0)
    body = {"model": "mllm", "prompt": "a", "max_tokens": 1800, "ignore_eos": True, "stream": True}
    async with (
        httpx.AsyncClient(base_url=served_model.reason_url, timeout=60) as client,
        client.stream("POST", "/v1/completions", json=body) as answer,
    ):
        lines = answer.aiter_lines()  # kept: thrown away, it would take the connection and the work along
        await anext(lines)
        async with asyncio.timeout(10):  # vLLM's gauges follow its work
            while await asyncio.to_thread(script.unfinished, port) < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert "nothing is left" in await asyncio.to_thread(script.drain, port, 0.0, 60.0)
