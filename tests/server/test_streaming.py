"""Server-sent events of POST /v1/segment: order, numbers, errors, heartbeats, slow and vanishing clients."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from server.events import StreamEvent
from server.schemas import SegmentResponse
from tests.server.asgi import Peer, post
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.stand_ins import ScriptedMllm

PHOTO = photo()
SSE = "text/event-stream"


def body(prompt: str = "the whole mug", **options: Any) -> dict[str, Any]:
    return {"prompt": prompt, "image": {"data": base64.b64encode(PHOTO).decode()}, **options}


def read(stream: str) -> list[dict[str, Any]]:
    """The events of a whole stream; every one has its type, its schema and its number."""
    events = []
    for block in stream.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            event = StreamEvent.model_validate_json(data.removeprefix("data: ")).root
            assert name == f"event: {event.type}"
            events.append(json.loads(data.removeprefix("data: ")))
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert len({event["id"] for event in events}) == 1
    return events


async def stream(gateway: Gateway, **options: Any) -> list[dict[str, Any]]:
    response = await gateway.client.post("/v1/segment", json=body(**options), headers={"accept": SSE})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith(SSE)
    assert response.headers["cache-control"] == "no-store"
    return read(response.text)


async def test_events_come_in_order_and_amount_to_the_answer(gateway: Gateway) -> None:
    options: dict[str, Any] = {"mask_type": "both", "include": ["heatmap"]}
    events = await stream(gateway, **options)
    assert [event["type"] for event in events] == [
        "accepted", "reasoning.delta", "reasoning.delta", "reasoning.delta", "decision",
        "heatmap", "heatmap", "mask", "mask", "hidden", "done",
    ]  # fmt: skip
    times = [event["ms"] for event in events]
    assert times[0] == 0
    assert times == sorted(times)
    plain = await gateway.client.post("/v1/segment", json=body(**options))
    answer = SegmentResponse.model_validate_json(plain.content)
    assert [event["rle"] for event in events if event["type"] == "mask"] == [
        mask.rle for mask in answer.masks
    ]
    assert events[0]["image"] == answer.image.model_dump()
    assert events[-1]["usage"] == answer.usage.model_dump()


async def test_a_failure_in_the_middle_is_an_error_event(gateway: Gateway) -> None:
    gateway.mllm.failing = {"decide"}
    *before, last = await stream(gateway)
    assert [event["type"] for event in before] == ["accepted", *["reasoning.delta"] * 3]
    assert (last["type"], last["problem"]["type"]) == ("error", "urn:r2sm:problem:model-unavailable")
    assert last["retry_after"] == 7
    assert gateway.services.admission.present == 0


async def test_a_failure_at_once_is_an_ordinary_problem(gateway: Gateway) -> None:
    damaged = {"prompt": "mug", "image": {"data": base64.b64encode(b"no image").decode()}}
    response = await gateway.client.post("/v1/segment", json=damaged, headers={"accept": SSE})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:r2sm:problem:image-not-an-image"


async def test_a_failure_after_a_sign_of_life_is_an_error_event(open_gateway: OpenGateway) -> None:
    """The status has been sent by then, though no event has."""
    async with open_gateway(max_in_flight=1, heartbeat_seconds=0.02) as gateway:
        gateway.mllm.hanging = {"reason"}
        async with post(gateway.app, "/v1/segment", body(), SSE):
            await gateway.mllm.reached.wait()
            response = await gateway.client.post(
                "/v1/segment", json=body(timeout_ms=500), headers={"accept": SSE}
            )
    assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (200, SSE)
    assert response.text.startswith(": still here\n\n")
    [event] = read(response.text)
    assert (event["type"], event["problem"]["type"]) == ("error", "urn:r2sm:problem:deadline-exceeded")


async def test_forms_that_are_not_there_are_406(gateway: Gateway) -> None:
    response = await gateway.client.post("/v1/segment", json=body(), headers={"accept": "text/html"})
    assert (response.status_code, response.json()["type"]) == (406, "urn:r2sm:problem:not-acceptable")


async def test_a_silent_stream_shows_signs_of_life(open_gateway: OpenGateway) -> None:
    async with open_gateway(heartbeat_seconds=0.02) as gateway:
        gateway.mllm.hanging = {"decide"}
        async with post(gateway.app, "/v1/segment", body(), SSE) as peer:
            await gateway.mllm.reached.wait()
            beats = 0
            while beats < 3:
                beats += (await peer.hear()).get("body") == b": still here\n\n"


async def vanish(gateway: Gateway, peer: Peer) -> None:
    assert gateway.mllm.running > 0
    peer.say("http.disconnect")
    await peer.ended()
    assert gateway.mllm.running == 0, "the generator is closed and the language model's work stopped"
    assert gateway.services.admission.present == 0


async def test_a_client_that_vanishes_stops_its_work(gateway: Gateway) -> None:
    gateway.mllm.hanging = {"reason"}
    async with post(gateway.app, "/v1/segment", body(), SSE) as peer:
        await gateway.mllm.reached.wait()
        await vanish(gateway, peer)


async def test_a_client_that_vanishes_deaf_stops_its_work(gateway: Gateway) -> None:
    gateway.mllm.hanging = {"reason"}
    async with post(gateway.app, "/v1/segment", body(), SSE) as peer:
        peer.hearing.clear()
        await gateway.mllm.reached.wait()
        await vanish(gateway, peer)


async def test_a_slow_reader_is_cut_off_and_holds_little(open_gateway: OpenGateway) -> None:
    talkative = ScriptedMllm(words=tuple("a long word " for _ in range(150)))
    async with open_gateway(talkative, stall_seconds=0.2, stream_buffer_kib=1) as gateway:
        async with post(gateway.app, "/v1/segment", body(), SSE) as peer:
            assert (await peer.hear())["status"] == 200
            peer.hearing.clear()
            await peer.ended()
            assert peer.outgoing.qsize() <= 10, "150 events were not written, nor kept"
        assert gateway.mllm.running == 0
        assert gateway.services.admission.present == 0
        assert (await gateway.client.post("/v1/segment", json=body())).status_code == 200


async def test_a_full_house_is_503_before_the_stream(open_gateway: OpenGateway) -> None:
    async with open_gateway(max_in_flight=1, max_queued=0) as gateway:
        gateway.mllm.hanging = {"decide"}
        async with post(gateway.app, "/v1/segment", body(), SSE) as guest:
            await gateway.mllm.reached.wait()
            response = await gateway.client.post("/v1/segment", json=body(), headers={"accept": SSE})
            assert response.status_code == 503
            guest.say("http.disconnect")
            await guest.ended()
        gateway.mllm.hanging = set()
        assert (await stream(gateway))[-1]["type"] == "done"


async def test_many_streams_at_once(gateway: Gateway) -> None:
    streams = await asyncio.gather(*(stream(gateway) for _ in range(12)))
    assert [events[-1]["type"] for events in streams] == ["done"] * 12
    assert len({events[0]["id"] for events in streams}) == 12


async def test_an_event_is_one_line_however_its_reader_tells_lines(open_gateway: OpenGateway) -> None:
    words = ("left\u2028of ", "the\x85 ", "box\u2029.")
    async with (
        open_gateway(ScriptedMllm(words=words)) as gateway,
        gateway.client.stream("POST", "/v1/segment", json=body(), headers={"accept": SSE}) as answer,
    ):
        lines = [line async for line in answer.aiter_lines()]
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert "".join(event["text"] for event in told if event["type"] == "reasoning.delta") == "".join(words)
