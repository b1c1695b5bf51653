"""SIGTERM under load, SIGHUP and changed files, with a real process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from server.admission.keys import new_key
from server.commands.serve import serve_until_signalled
from server.settings import Settings
from tests.server.asking import as_multipart
from tests.server.conftest import photo
from tests.server.gateway_process import PATIENCE, ROOT, gateway
from tests.waiting import until

STREAM = {"Accept": "text/event-stream"}
ASKED = {"type": "segment", "prompt": "mug", "image": {"data": base64.b64encode(photo()).decode()}}


def socket_url(http: httpx.AsyncClient) -> str:
    return str(http.base_url.copy_with(scheme="ws", path="/v1/segment/stream"))


@pytest.fixture
async def own_signals() -> AsyncIterator[None]:
    """What a test hangs on signals is taken off again: all tests share one event loop."""
    yield
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().remove_signal_handler(number)


async def in_flight(http: httpx.AsyncClient) -> int:
    """How many requests the gateway is working on."""
    found = re.search(r"^r2sm_requests_in_flight (\S+)$", (await http.get("/metrics")).text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


async def last_event(http: httpx.AsyncClient) -> tuple[str, str]:
    response = await http.post("/v1/segment", headers=STREAM, **as_multipart())
    last = response.text.rpartition("event: ")[2]
    return last.partition("\n")[0], last


async def ended(socket: ClientConnection) -> tuple[str, int]:
    """The last event on a WebSocket, and the code it was closed with."""
    last = ""
    with contextlib.suppress(ConnectionClosed):  # 1012 is no ordinary end to the library
        while True:
            last = str(json.loads(await socket.recv())["type"])
    assert socket.close_code is not None
    return last, socket.close_code


async def running(
    http: httpx.AsyncClient, socket: ClientConnection, asked: int
) -> list[asyncio.Task[object]]:
    """So many requests of each form, all under way."""
    tasks: list[asyncio.Task[object]] = []
    for _ in range(asked):
        tasks.append(asyncio.create_task(http.post("/v1/segment", **as_multipart())))
        tasks.append(asyncio.create_task(last_event(http)))

    async def arrived() -> bool:
        return await in_flight(http) == len(tasks)

    await until(arrived)
    await socket.send(json.dumps({**ASKED, "id": "a"}))
    async with asyncio.timeout(PATIENCE):
        assert json.loads(await socket.recv())["type"] == "accepted"
    return tasks


async def test_nothing_that_was_accepted_is_lost() -> None:
    async with (
        gateway(4.0, "--max-in-flight", "8", "--max-queued", "64") as (child, http),
        connect(socket_url(http)) as busy,
        connect(socket_url(http)) as idle,
    ):
        tasks = await running(http, busy, asked=3)
        child.process.send_signal(signal.SIGTERM)
        assert (await ended(idle))[1] == 1012
        ready = await http.get("/readyz")
        refused = await http.post("/v1/segment", **as_multipart())
        for response in (ready, refused):
            assert (response.status_code, response.json()["type"]) == (503, "urn:r2sm:problem:draining")
            assert int(response.headers["retry-after"]) > 0
        assert await ended(busy) == ("done", 1012)
        for answer in await asyncio.gather(*tasks):
            if isinstance(answer, httpx.Response):
                assert answer.status_code == 200
            else:
                assert isinstance(answer, tuple)
                assert answer[0] == "done"
        async with asyncio.timeout(PATIENCE):
            assert await child.process.wait() == 0


async def test_what_takes_too_long_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "r2sm.toml").write_text("shutdown_seconds = 1\nmax_in_flight = 8\n")
    async with (
        gateway(300.0, "--config", str(tmp_path / "r2sm.toml")) as (child, http),
        connect(socket_url(http)) as busy,
    ):
        tasks = await running(http, busy, asked=1)
        child.process.send_signal(signal.SIGTERM)
        assert await ended(busy) == ("error", 1012)
        whole, stream = await asyncio.gather(*tasks)
        assert isinstance(whole, httpx.Response)
        assert (whole.status_code, whole.json()["type"]) == (503, "urn:r2sm:problem:draining")
        assert isinstance(stream, tuple)
        assert stream[0] == "error"
        assert "urn:r2sm:problem:draining" in stream[1]
        async with asyncio.timeout(PATIENCE):
            assert await child.process.wait() == 0


async def test_keys_are_read_anew(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    (ann, anns), (bob, bobs) = new_key("ann"), new_key("bob")
    keys.write_text(anns)
    async with gateway(0.0, "--api-keys-file", str(keys)) as (child, http):

        async def status(secret: str) -> int:
            return (await http.get("/v1/models", headers={"X-API-Key": secret})).status_code

        assert (await status(ann), await status(bob)) == (200, 401)
        keys.write_text(f"{anns}\n{bobs}\n")
        await child.said("have been read anew")
        assert (await status(ann), await status(bob)) == (200, 200)
        keys.write_text("ann:nonsense")
        await child.said("the settings stay as they were")
        assert (await status(ann), await status(bob)) == (200, 200)
        child.log.clear()
        keys.write_text(bobs)
        child.process.send_signal(signal.SIGHUP)
        await child.said("have been read anew")
        assert (await status(ann), await status(bob)) == (401, 200)
        assert not [line for line in child.log if ann in line or bob in line]


async def test_settings_that_change_while_the_engines_load_are_read_anew(
    monkeypatch: pytest.MonkeyPatch, own_signals: None
) -> None:
    reloaded, stopped = asyncio.Event(), asyncio.Event()

    class Opened:
        url, engines = "http://127.0.0.1:1", SimpleNamespace(name="none")

        def reload(self, read: Callable[[], Settings]) -> Settings:
            reloaded.set()
            return read()

        def stop(self) -> None:
            stopped.set()

        async def wait_ready(self, timeout: float, progress: object) -> None: ...

        async def wait_stopped(self) -> None:
            await stopped.wait()

    @asynccontextmanager
    async def slowly(settings: Settings) -> AsyncIterator[Opened]:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.1)
        assert not reloaded.is_set()
        yield Opened()

    monkeypatch.setattr("server.commands.serve.run_gateway", slowly)
    settings = Settings()
    async with asyncio.timeout(PATIENCE):
        serving = asyncio.create_task(serve_until_signalled(settings, lambda: settings))
        await reloaded.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await serving


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_second_signal_waits_for_no_request(at_once: bool, tmp_path: Path) -> None:
    (tmp_path / "r2sm.toml").write_text("shutdown_seconds = 600\n")
    async with gateway(600.0, "--config", str(tmp_path / "r2sm.toml")) as (child, http):
        asked = asyncio.create_task(http.post("/v1/segment", **as_multipart()))

        async def arrived() -> bool:
            return await in_flight(http) == 1

        async def draining() -> bool:
            return (await http.get("/readyz")).status_code == 503

        await until(arrived)
        if at_once:
            child.process.send_signal(signal.SIGSTOP)
        child.process.send_signal(signal.SIGTERM)
        if not at_once:
            await until(draining)
            assert not asked.done()
        child.process.send_signal(signal.SIGINT)
        child.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(PATIENCE):
            assert await child.process.wait() == 0
        answer = await asked
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:r2sm:problem:draining")


LOADING = """
import asyncio
from contextlib import asynccontextmanager
from unittest.mock import patch
from server.cli import main

@asynccontextmanager
async def open_engines(settings, telemetry):
    print("loading", flush=True)
    await asyncio.Event().wait()
    yield

with patch("server.running.open_engines", open_engines):
    main()
"""


async def test_a_signal_while_the_engines_load_ends_with_130() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOADING, "serve", "--port", "0"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"loading\n"
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
