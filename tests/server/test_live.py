"""A gateway that really listens: the synchronous client, real WebSockets, clients that drop their connection."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner
from websockets.asyncio.client import connect

from server.cli import app as command_line
from server.client import SegmentClient, SegmentFailed, pixels, uploaded
from server.commands.segment import _ask
from server.events import WireEvent
from server.images import ImageLimits
from server.retries import Retries
from server.sockets import largest_frame
from server.sync_client import SyncSegmentClient
from tests.server.command_line import r2sm
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.server.listening import listening
from tests.waiting import until

PHOTO = photo()
LIMIT = 200_000


@dataclass
class Live:
    """A gateway under test and where it listens."""

    gateway: Gateway
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/segment/stream"

    async def idle(self) -> None:
        """Wait at most a second until nothing is worked on."""
        mllm, admission = self.gateway.mllm, self.gateway.services.admission
        await until(lambda: not (mllm.running or admission.present), seconds=1)


@pytest.fixture
async def live(open_gateway: OpenGateway) -> AsyncIterator[Live]:
    async with open_gateway(max_image_mb=LIMIT / 1e6) as gateway:
        frame = largest_frame(ImageLimits(max_bytes=LIMIT))
        async with listening(gateway.app, ws_max_size=frame) as port:
            yield Live(gateway, port)


async def test_the_synchronous_client_does_all_the_other_does(live: Live) -> None:
    def use() -> list[WireEvent]:
        with SyncSegmentClient(live.url) as client:
            assert client.ready()
            id = client.upload(PHOTO).id
            by_id, by_file = client.segment(uploaded(id), "mug"), client.segment(PHOTO, "mug")
            assert by_id.masks == by_file.masks
            assert pixels(by_id.masks[0]).sum() == by_id.masks[0].area
            [good, bad] = client.segment_all(
                PHOTO, [{"prompt": "a"}, {"prompt": "b", "timeout_ms": 1}]
            ).results
            assert (good.status, bad.status) == (200, 504)
            client.delete(id)
            with pytest.raises(SegmentFailed, match="no such image"):
                client.segment(uploaded(id), "mug")
            with pytest.raises(ValidationError):
                client.segment(PHOTO, "mug", colour="red")
            return list(client.stream(PHOTO, "mug"))

    events = await asyncio.to_thread(use)
    assert [event.type for event in events] == [
        "accepted", *["reasoning.delta"] * 3, "decision", "mask", "done",
    ]  # fmt: skip


async def test_a_stream_given_up_early_stops_the_work(live: Live) -> None:
    live.gateway.mllm.hanging = {"reason"}
    async with SegmentClient(live.url) as client:
        events = client.stream(PHOTO, "mug")
        assert (await anext(events)).type == "accepted"
        await live.gateway.mllm.reached.wait()
        await events.aclose()
        await live.idle()


async def test_a_stream_that_fails_raises_its_problem(live: Live) -> None:
    live.gateway.mllm.failing = {"decide"}
    async with SegmentClient(live.url) as client:
        with pytest.raises(SegmentFailed, match="not available") as caught:
            _ = [event async for event in client.stream(PHOTO, "mug")]
    assert caught.value.status == 503
    assert caught.value.problem is not None


async def test_a_websocket_as_a_program_uses_it(live: Live) -> None:
    async with connect(live.socket_url) as socket:
        for id in ("a", "b"):
            await socket.send(json.dumps({"type": "segment", "id": id, "prompt": "mug"}))
            await socket.send(PHOTO)
        ended: set[str] = set()
        async with asyncio.timeout(20):
            while ended != {"a", "b"}:
                event = json.loads(await socket.recv())
                if event["type"] == "done":
                    ended.add(event["id"])


async def test_a_websocket_that_is_dropped_frees_its_work(live: Live) -> None:
    live.gateway.mllm.hanging = {"reason"}
    socket = await connect(live.socket_url)
    image = {"data": base64.b64encode(PHOTO).decode()}
    await socket.send(json.dumps({"type": "segment", "id": "a", "prompt": "mug", "image": image}))
    await live.gateway.mllm.reached.wait()
    socket.transport.abort()
    await live.idle()


@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT])
async def test_a_frame_that_is_too_big_closes_with_1009(live: Live, size: int) -> None:
    async with connect(live.socket_url) as socket:
        await socket.send(json.dumps({"type": "segment", "id": "a", "prompt": "mug"}))
        await socket.send(bytes(size))
        async with asyncio.timeout(20):
            await socket.wait_closed()
        assert socket.close_code == 1009
    await live.idle()


async def test_segment_takes_a_folder(live: Live, tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG", "c.png"):
        (tmp_path / name).write_bytes(PHOTO if name != "c.png" else b"no image")
    (tmp_path / "notes.txt").write_text("not an image")

    written = ("segment", str(tmp_path), "mug", "--out", str(tmp_path / "out"), "--url", live.url)
    printed = ("segment", str(tmp_path / "[ab].*"), "mug", "--json", "--url", live.url)
    (code, output), (code_of_two, json_of_two) = await asyncio.gather(r2sm(*written), r2sm(*printed))
    assert code == 1
    assert "a.png: amodal" in output
    assert "c.png: The image cannot be used" in output
    assert "1 of 3 images failed" in output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert code_of_two == 0
    answers = [json.loads(line) for line in json_of_two.splitlines() if line.startswith("{")]
    assert [Path(answer["file"]).name for answer in answers] == ["a.png", "b.PNG"]


def test_a_folder_without_images_is_a_wrong_argument(tmp_path: Path) -> None:
    assert CliRunner().invoke(command_line, ["segment", str(tmp_path / "none*"), "mug"]).exit_code == 2


async def test_the_reasoning_is_shown_as_it_comes(live: Live) -> None:
    shown: list[str] = []
    response = await _ask(
        partial(SegmentClient, live.url),
        PHOTO,
        "mug",
        {"mask_type": "both", "include": ["heatmap"]},
        shown.append,
    )
    assert shown == list(live.gateway.mllm.words)
    assert response.reasoning == "".join(shown)
    async with SegmentClient(live.url) as client:
        whole = await client.segment(PHOTO, "mug", mask_type="both", include=["heatmap"])
    assert (response.masks, response.hidden, response.heatmap) == (whole.masks, whole.hidden, whole.heatmap)


def test_retries_honour_what_the_server_asks_for() -> None:
    retries = Retries(times=2, longest=10)
    assert [retries.wait(tried, 503, "7") for tried in (1, 2, 3)] == [7, 7, None]
    assert retries.wait(1, 503, None) is None
    assert retries.wait(1, 503, "11") is None
    assert retries.wait(1, 503, "tomorrow") is None
    assert retries.wait(1, 503, "-1") is None
    assert retries.wait(1, 504, "1") is None


@pytest.mark.parametrize("refusal", [429, 503])
async def test_a_refusal_is_tried_again(refusal: int) -> None:
    answers = iter([(refusal, {"retry-after": "0"}), (refusal, {"retry-after": "0"}), (204, {})])
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        status, headers = next(answers)
        return httpx.Response(status, headers=headers)

    async with SegmentClient("http://x", httpx.MockTransport(answer)) as client:
        await client.delete("sha256:0")
    assert seen == ["/v1/images/sha256:0"] * 3
