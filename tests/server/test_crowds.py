"""Two hundred clients at once, half of them leaving: nothing is lost, and nothing is left behind."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import httpx
from websockets.asyncio.client import connect

from engines.events import ReasoningDelta
from engines.mllm.image import MllmImage
from engines.mllm.interface import Hear
from engines.mllm.results import ReasoningEnd
from tests.server.asking import as_multipart
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.server.live import listening
from tests.stand_ins import ScriptedMllm
from tests.waiting import until

CLIENTS = 200
IN_JSON = {"data": base64.b64encode(photo()).decode()}
Ask = Callable[[httpx.AsyncClient, int, int], Coroutine[Any, Any, str]]


class WaitingMllm(ScriptedMllm):
    """Reasons when it is let; counts, as its base class does, who is with it."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.let.set()

    async def reason(
        self,
        image: MllmImage,
        prompt: str,
        budget: int,
        *,
        objects: int | None = None,
        hear: Hear | None = None,
        timeout: float,
    ) -> AsyncGenerator[ReasoningDelta | ReasoningEnd, None]:
        self.running += 1
        try:
            await self.let.wait()
        finally:
            self.running -= 1
        async for item in super().reason(image, prompt, budget, objects=objects, hear=hear, timeout=timeout):
            yield item


async def whole(http: httpx.AsyncClient, port: int, number: int) -> str:
    response = await http.post("/v1/segment", **as_multipart(f"mug {number}"))
    assert response.status_code == 200
    return "done"


async def streamed(http: httpx.AsyncClient, port: int, number: int) -> str:
    headers = {"Accept": "text/event-stream"}
    response = await http.post("/v1/segment", headers=headers, **as_multipart(f"mug {number}"))
    return response.text.rpartition("event: ")[2].partition("\n")[0]


async def socketed(http: httpx.AsyncClient, port: int, number: int) -> str:
    async with connect(f"ws://127.0.0.1:{port}/v1/segment/stream") as socket:
        await socket.send(json.dumps({"type": "segment", "id": "a", "prompt": "mug", "image": IN_JSON}))
        while (event := json.loads(await socket.recv()))["type"] not in ("done", "error"):
            pass
        return str(event["type"])


WAYS: tuple[Ask, ...] = (whole, streamed, socketed)


async def within_a_second(gateway: Gateway, present: int) -> None:
    """Wait until so many requests are here; those who left may be noticed a second later, no more."""
    await until(lambda: gateway.services.admission.present == present, seconds=1)


async def test_those_who_stay_are_answered_and_those_who_left_leave_nothing(
    open_gateway: OpenGateway,
) -> None:
    mllm = WaitingMllm()
    async with (
        open_gateway(mllm, max_in_flight=16, max_queued=CLIENTS) as gateway,
        listening(gateway) as port,
    ):
        files, tasks = open_files(), len(asyncio.all_tasks())
        mllm.let.clear()
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120, limits=limits) as http:
            asking = [asyncio.create_task(WAYS[n % 3](http, port, n)) for n in range(CLIENTS)]
            async with asyncio.timeout(120):
                while gateway.services.admission.present < CLIENTS:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                while mllm.running < 16:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            for task in asking[::2]:
                task.cancel()
            await asyncio.gather(*asking[::2], return_exceptions=True)
            await within_a_second(gateway, CLIENTS // 2)
            mllm.let.set()
            async with asyncio.timeout(120):
                assert await asyncio.gather(*asking[1::2]) == ["done"] * (CLIENTS // 2)
        await within_a_second(gateway, 0)
        assert (mllm.running, gateway.services.admission.running) == (0, 0)
        assert gateway.services.sockets.present == 0
        async with asyncio.timeout(20):
            while len(asyncio.all_tasks()) > tasks or open_files() > files + 4:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def open_files() -> int:
    """File descriptors of this process; those of thread pools and of the loop come and go, a few."""
    return len(os.listdir("/proc/self/fd"))
