"""WS /v1/segment/stream: requests side by side, cancels, bad frames, close codes, clients that vanish."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from fastapi import WebSocket

from server.events import StreamEvent
from server.services import Services
from server.sockets import MAX_MALFORMED, SIDE_BY_SIDE
from server.streaming import Put, Telling
from tests.server.asgi import Socket, connect
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.stand_ins import ScriptedMllm

PHOTO = photo()
IN_JSON = {"data": base64.b64encode(PHOTO).decode()}


def ask(socket: Socket, id: str, **options: Any) -> None:
    """A request and its image in a binary frame."""
    socket.say(type="segment", id=id, prompt="the whole mug", **options)
    if "image" not in options:
        socket.say_bytes(PHOTO)


async def error(socket: Socket, id: str | None, slug: str) -> dict[str, Any]:
    event = await socket.hear()
    assert (event["type"], event["id"]) == ("error", id), event
    assert event["problem"]["type"] == f"urn:r2sm:problem:{slug}"
    return event


async def works(socket: Socket, id: str) -> None:
    ask(socket, id)
    assert (await socket.hear_until_end(id))[-1]["type"] == "done"


@pytest.mark.parametrize("image", [{}, {"image": IN_JSON}])
async def test_one_after_another(gateway: Gateway, image: dict[str, Any]) -> None:
    async with connect(gateway.app) as socket:
        for id in ("first", "second", "first"):
            ask(socket, id, mask_type="both", **image)
            events = await socket.hear_until_end(id)
            assert [event["type"] for event in events] == [
                "accepted", *["reasoning.delta"] * 3, "decision", "mask", "mask", "hidden", "done",
            ]  # fmt: skip
            assert [event["seq"] for event in events] == list(range(len(events)))
            assert {event["id"] for event in events} == {id}
            for event in events:
                StreamEvent.model_validate(event)


async def test_side_by_side(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        ids = [f"request {number}" for number in range(6)]
        for id in ids:
            ask(socket, id)
        ended: set[str] = set()
        numbers: dict[str, list[int]] = {id: [] for id in ids}
        while len(ended) < len(ids):
            event = await socket.hear()
            numbers[event["id"]].append(event["seq"])
            if event["type"] == "done":
                ended.add(event["id"])
    assert all(seen == list(range(len(seen))) for seen in numbers.values())


async def test_a_cancel_stops_one_request_only(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        gateway.mllm.hanging = {"reason"}
        ask(socket, "unwanted")
        await gateway.mllm.reached.wait()
        gateway.mllm.hanging = set()
        socket.say(type="cancel", id="unwanted")
        *_, last = await socket.hear_until_end("unwanted")
        assert last["problem"]["type"] == "urn:r2sm:problem:cancelled"
        assert gateway.mllm.running == 0
        assert gateway.services.admission.present == 0
        await works(socket, "unwanted")


async def test_a_cancel_takes_back_the_frame_that_was_owed(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        socket.say(type="segment", id="a", prompt="mug")
        socket.say(type="cancel", id="a")
        await error(socket, "a", "cancelled")
        await works(socket, "b")


async def test_a_cancel_for_nothing(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        socket.say(type="cancel", id="nobody")
        event = await error(socket, None, "no-such-request")
        assert event["problem"]["errors"][0]["field"] == "id"
        await works(socket, "a")


async def test_an_id_used_twice(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        gateway.mllm.hanging = {"decide"}
        ask(socket, "a", image=IN_JSON)
        await gateway.mllm.reached.wait()
        ask(socket, "a", image=IN_JSON)
        while (event := await socket.hear())["type"] != "error":
            assert event["id"] == "a"
        assert event["id"] is None, "the request that has the id goes on"
        assert event["problem"]["type"] == "urn:r2sm:problem:id-in-use"
        assert gateway.services.admission.present == 1


@pytest.mark.parametrize(
    ("text", "id", "slug"),
    [
        ("{", None, "malformed"),
        ("[" * 100_000, None, "malformed"),
        ("[]", None, "invalid-request"),
        ("7", None, "invalid-request"),
        ("{}", None, "invalid-request"),
        ('{"type": "dance", "id": "a"}', "a", "invalid-request"),
        ('{"type": "segment", "prompt": "mug"}', None, "invalid-request"),
        ('{"type": "segment", "id": 5, "prompt": "mug"}', None, "invalid-request"),
        ('{"type": "segment", "id": "a"}', "a", "invalid-request"),
        ('{"type": "segment", "id": "a", "prompt": "mug", "objects": 99}', "a", "invalid-request"),
        ('{"type": "segment", "id": "a", "prompt": "mug", "image": {"data": "?"}}', "a", "invalid-request"),
        ('{"type": "cancel"}', None, "invalid-request"),
        ('{"type": "ping", "id": "a"}', "a", "invalid-request"),
    ],
)
async def test_bad_text_frames_are_answered(gateway: Gateway, text: str, id: str | None, slug: str) -> None:
    async with connect(gateway.app) as socket:
        socket.say_text(text)
        await error(socket, id, slug)
        await works(socket, "a")


async def test_fields_at_fault_are_named(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        socket.say(type="segment", id="a", prompt="mug", objects=99)
        event = await error(socket, "a", "invalid-request")
        assert [fault["field"] for fault in event["problem"]["errors"]] == ["objects"]


async def test_a_binary_frame_that_nobody_wants(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        socket.say_bytes(PHOTO)
        await error(socket, None, "malformed")
        await works(socket, "a")


async def test_a_bad_image_fails_its_request_only(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        socket.say(type="segment", id="a", prompt="mug")
        socket.say_bytes(b"no image")
        await error(socket, "a", "image-not-an-image")
        await works(socket, "b")


async def test_pings_are_answered(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        socket.say(type="ping")
        assert (await socket.hear())["type"] == "pong"


async def test_a_full_house_is_an_error_event(open_gateway: OpenGateway) -> None:
    async with open_gateway(max_in_flight=1, max_queued=0) as gateway, connect(gateway.app) as socket:
        gateway.mllm.hanging = {"reason"}
        ask(socket, "a", image=IN_JSON)
        await gateway.mllm.reached.wait()
        ask(socket, "b")
        while (event := await socket.hear())["id"] != "b":
            pass
        assert event["problem"]["type"] == "urn:r2sm:problem:overloaded"
        assert event["retry_after"] == 1


async def test_too_many_requests_on_one_connection_close_it(open_gateway: OpenGateway) -> None:
    async with open_gateway(max_in_flight=SIDE_BY_SIDE + 9) as gateway, connect(gateway.app) as socket:
        gateway.mllm.hanging = {"reason"}
        for number in range(SIDE_BY_SIDE + 1):
            ask(socket, str(number), image=IN_JSON)
        assert await socket.closed() == 1008
        await socket.peer.ended()
    assert (gateway.services.admission.present, gateway.mllm.running) == (0, 0)


async def test_a_frame_that_never_comes_times_out(open_gateway: OpenGateway) -> None:
    async with open_gateway(upload_seconds=0.05) as gateway, connect(gateway.app) as socket:
        socket.say(type="segment", id="a", prompt="mug")
        await error(socket, "a", "upload-timeout")
        ask(socket, "b", image=IN_JSON)  # nothing is owed any more
        assert (await socket.hear_until_end("b"))[-1]["type"] == "done"


async def test_who_takes_back_what_was_refused_meanwhile_may_go_on(open_gateway: OpenGateway) -> None:
    async with open_gateway(max_in_flight=1, max_queued=0) as gateway, connect(gateway.app) as socket:
        gateway.mllm.hanging = {"reason"}
        ask(socket, "a", image=IN_JSON)
        await gateway.mllm.reached.wait()
        socket.say(type="segment", id="b", prompt="mug")
        while (await socket.hear())["id"] != "b":
            pass
        socket.say(type="cancel", id="b")  # and so its frame is not sent
        await error(socket, None, "no-such-request")
        socket.say(type="cancel", id="a")
        await error(socket, "a", "cancelled")
        gateway.mllm.hanging.clear()
        await works(socket, "c")


async def refused_for_want_of_room(gateway: Gateway, socket: Socket, id: str) -> None:
    """A request ends by itself before its frame is sent; there is room for one, which hangs under another id."""
    gateway.mllm.hanging = {"reason"}
    ask(socket, "hanging", image=IN_JSON)
    await gateway.mllm.reached.wait()
    socket.say(type="segment", id=id, prompt="mug")
    assert (await socket.hear_until_end(id))[-1]["problem"]["type"] == "urn:r2sm:problem:overloaded"
    socket.say(type="cancel", id="hanging")
    await error(socket, "hanging", "cancelled")
    gateway.mllm.hanging = set()


async def test_the_frame_of_a_request_that_has_failed_is_not_taken_for_the_next_one_s(
    open_gateway: OpenGateway,
) -> None:
    async with open_gateway(max_in_flight=1, max_queued=0) as gateway, connect(gateway.app) as socket:
        await refused_for_want_of_room(gateway, socket, "a")
        socket.say_bytes(photo((30, 20)))  # its client had not heard of it
        ask(socket, "b")
        accepted, *_, last = await socket.hear_until_end("b")
        assert (accepted["image"]["width"], last["type"]) == (120, "done")


async def test_a_request_in_place_of_the_frame_of_one_that_has_failed_is_against_the_protocol(
    open_gateway: OpenGateway,
) -> None:
    async with open_gateway(max_in_flight=1, max_queued=0) as gateway, connect(gateway.app) as socket:
        await refused_for_want_of_room(gateway, socket, "a")
        socket.say(type="segment", id="b", prompt="mug")
        socket.say_bytes(photo((30, 20)))  # a's, or b's?
        assert await socket.closed() == 1008


async def test_a_request_with_its_own_image_may_come_before_a_frame(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        socket.say(type="segment", id="a", prompt="mug")
        ask(socket, "b", image=IN_JSON)
        assert (await socket.hear_until_end("b"))[-1]["type"] == "done"
        socket.say_bytes(photo((30, 20)))
        accepted, *_ = await socket.hear_until_end("a")
        assert accepted["image"]["width"] == 30


async def test_another_request_in_place_of_the_frame_is_against_the_protocol(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        socket.say(type="segment", id="a", prompt="mug")
        socket.say(type="segment", id="b", prompt="mug")
        assert await socket.closed() == 1008
        await socket.peer.ended()
    assert gateway.services.admission.present == 0


async def test_a_client_that_talks_nonsense_is_cut_off(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        for _ in range(9):
            socket.say_text("}")
        assert await socket.closed() == 1008


@pytest.mark.parametrize("text", [True, False])
async def test_too_big_is_1009(open_gateway: OpenGateway, text: bool) -> None:
    async with open_gateway(max_image_mb=0.03) as gateway, connect(gateway.app) as socket:
        if text:
            socket.say_text("x" * 110_000)
        else:
            socket.say(type="segment", id="a", prompt="mug")
            socket.say_bytes(bytes(30_001))
        assert await socket.closed() == 1009


async def test_too_many_connections_are_1013(open_gateway: OpenGateway) -> None:
    async with open_gateway(max_sockets=1) as gateway:
        async with connect(gateway.app) as first:
            async with connect(gateway.app) as second:
                assert await second.closed() == 1013
            first.leave()
            await first.peer.ended()
        async with connect(gateway.app) as third:
            await works(third, "a")


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null", "http://["])
async def test_a_page_of_another_site_may_not_ask(gateway: Gateway, origin: str) -> None:
    async with connect(gateway.app, {"origin": origin, "host": "gateway:8000"}) as socket:
        assert await socket.closed() == 1008
        await socket.peer.ended()
    async with connect(gateway.app, {"origin": "http://gateway:8000", "host": "gateway:8000"}) as socket:
        await works(socket, "a")


async def test_a_client_that_vanishes_stops_its_work(gateway: Gateway) -> None:
    gateway.mllm.hanging = {"reason"}
    async with connect(gateway.app) as socket:
        for id in ("a", "b", "c"):
            ask(socket, id)
        async with asyncio.timeout(10):
            while gateway.mllm.calls.count("reason") < 4:  # noqa: ASYNC110  # the warm-up's and three
                await asyncio.sleep(0.01)
        assert gateway.mllm.running == 3
        socket.leave()
        await socket.peer.ended()
    assert gateway.mllm.running == 0, "the generators are closed and the language model's work stopped"
    assert gateway.services.admission.present == 0
    assert gateway.services.sockets.present == 0


async def test_a_slow_reader_is_cut_off(open_gateway: OpenGateway) -> None:
    talkative = ScriptedMllm(words=tuple("a long word " for _ in range(150)))
    async with open_gateway(talkative, stall_seconds=0.2, stream_buffer_kib=1) as gateway:
        async with connect(gateway.app) as socket:
            socket.peer.hearing.clear()
            ask(socket, "a")
            async with asyncio.timeout(10):
                while gateway.services.admission.present == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                while gateway.services.admission.present:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            socket.peer.hearing.set()
            assert await socket.closed() == 1008
        assert gateway.mllm.running == 0


async def test_the_frame_behind_a_refused_message_is_its_image(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        for _ in range(2 * MAX_MALFORMED):
            socket.say(type="segment", id="a", prompt="mug", objects=99)
            socket.say_bytes(PHOTO)
            await error(socket, "a", "invalid-request")
        await works(socket, "a")
        socket.say_bytes(PHOTO)
        await error(socket, None, "malformed")


async def test_a_cancel_that_comes_too_late_adds_no_second_end(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    lingering = asyncio.Event()

    async def tell(telling: Telling, services: Services, put: Put) -> None:
        await put(telling.narrator.fail(RuntimeError("over"), "test"))
        await lingering.wait()

    monkeypatch.setattr(Telling, "tell", tell)
    async with connect(gateway.app) as socket:
        ask(socket, "a")
        await error(socket, "a", "internal")
        socket.say(type="cancel", id="a")
        socket.say(type="ping")
        assert (await socket.hear())["type"] == "pong"


async def test_a_connection_that_uvicorn_has_closed_ends_quietly(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def closed(socket: WebSocket, text: str) -> None:
        raise RuntimeError("Cannot call send once a close message has been sent")

    monkeypatch.setattr(WebSocket, "send_text", closed)
    async with connect(gateway.app) as socket:
        socket.say(type="ping")
    assert gateway.services.sockets.present == 0
