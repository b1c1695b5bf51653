"""Real vLLM that is killed while it streams: the request ends with a problem, and the gateway comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from server.client import SegmentClient, SegmentFailed
from server.running import run_gateway
from server.settings import Settings
from tests.server.conftest import photo
from tests.tiny_bundle import build_tiny_bundle

if TYPE_CHECKING:
    from tests.vllm_fixture import ServedModel

PATIENCE = 300.0


def processes_on(url: str) -> Iterator[int]:
    """The vLLM processes that were started for the port of `url`, without the leash that watches them."""
    option = f"\0--port\0{httpx.URL(url).port}\0"
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            if "leash.py" not in command and option in command:
                yield int(folder.name)


async def stream_and_kill(client: SegmentClient, pids: list[int]) -> None:
    """Stream a long reasoning and kill the processes when its first words have come."""
    async for event in client.stream(photo(), "mug", max_reasoning_tokens=400, objects=1):
        if event.type == "reasoning.delta":
            while pids:
                os.kill(pids.pop(), signal.SIGKILL)
        assert event.type != "done"


@pytest.mark.vllm
async def test_vllm_killed_in_the_middle_of_a_stream(served_model: ServedModel, tmp_path: Path) -> None:
    bundle = served_model.bundle or build_tiny_bundle(tmp_path / "bundle", served_model.path)
    settings = Settings(
        bundle=bundle,
        port=0,
        vision="torch",
        reason_url=served_model.reason_url,
        concentrate_url=served_model.concentrate_url,
    )
    async with run_gateway(settings) as gateway, SegmentClient(gateway.url) as client:
        await gateway.wait_ready(PATIENCE)
        killed = list(processes_on(served_model.reason_url))
        assert killed
        with pytest.raises(SegmentFailed) as caught:
            await stream_and_kill(client, killed)
        assert caught.value.status == 503
        assert caught.value.problem is not None
        assert caught.value.problem.type == "urn:r2sm:problem:model-unavailable"
        async with asyncio.timeout(PATIENCE):
            for ready in (False, True):
                while await client.ready() is not ready:  # noqa: ASYNC110  # asks as an outsider
                    await asyncio.sleep(0.5)
        assert (await client.segment(photo(), "mug", mask_type="modal", objects=1)).masks
