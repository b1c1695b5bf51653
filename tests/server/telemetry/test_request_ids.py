"""Request ids: taken if they are harmless, else made; on every response, stream, handshake and problem."""

from __future__ import annotations

import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.telemetry.record import sane_id
from tests.server.asgi import call
from tests.server.asking import PHOTO, as_json, post
from tests.server.conftest import Gateway

MADE = r"[0-9a-f]{32}"


@pytest.mark.parametrize("given_id", ["a", "7f3c-AB.c_d:e", "x" * 128])
def test_harmless_ids_are_taken(given_id: str) -> None:
    assert sane_id(given_id) == given_id


@given(st.one_of(st.none(), st.text()))
def test_whatever_comes_the_id_is_short_and_plain(given_id: str | None) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", sane_id(given_id))


@pytest.mark.parametrize("given_id", ["", "x" * 129, "a b", "a\nb", "-a", "é", "a\n", '"', "{}"])
def test_others_are_made(given_id: str) -> None:
    assert re.fullmatch(MADE, sane_id(given_id))


async def test_every_response_names_its_request(gateway: Gateway) -> None:
    own = {"x-request-id": "mine-1"}
    for request in (as_json(), as_json(prompt=""), as_json() | {"headers": {"accept": "text/event-stream"}}):
        made = await post(gateway, request)
        assert re.fullmatch(MADE, made.headers["x-request-id"])
        headers = {"headers": request.get("headers", {}) | own}
        assert (await post(gateway, request | headers)).headers["x-request-id"] == "mine-1"
    for path in ("/livez", "/metrics", "/nowhere", "/v1/models", "/openapi.json"):
        assert (await gateway.client.get(path, headers=own)).headers["x-request-id"] == "mine-1"
    evil = await gateway.client.get("/livez", headers={"x-request-id": "a" * 5000})
    assert re.fullmatch(MADE, evil.headers["x-request-id"])


async def test_every_problem_names_its_request(gateway: Gateway) -> None:
    for request in (as_json(prompt=""), as_json(image=b"no image")):
        response = await post(gateway, request)
        assert response.json()["request_id"] == response.headers["x-request-id"]
    gateway.mllm.failing = {"concentrate"}
    stream = await post(
        gateway, as_json() | {"headers": {"accept": "text/event-stream", "x-request-id": "s"}}
    )
    assert '"request_id":"s"' in stream.text
    image = as_json()["json"]["image"]
    body = {"image": image, "requests": [{"prompt": "a"}]}
    batch = await gateway.client.post("/v1/segment/batch", json=body, headers={"x-request-id": "b"})
    assert batch.json()["results"][0]["problem"]["request_id"] == "b"


async def test_a_websockets_handshake_and_its_requests(gateway: Gateway) -> None:
    headers = {"x-request-id": "socket-7"}
    async with call(gateway.app, "websocket", "/v1/segment/stream", headers) as peer:
        peer.say("websocket.connect")
        accepted = await peer.hear()
        assert (b"x-request-id", b"socket-7") in accepted["headers"]
        gateway.mllm.failing = {"decide"}
        for number in (1, 2):
            peer.say("websocket.receive", text='{"type": "segment", "id": "a", "prompt": "mug"}')
            peer.say("websocket.receive", bytes=PHOTO)
            while '"error"' not in (text := (await peer.hear())["text"]):
                pass
            assert f'"request_id":"socket-7.{number}"' in text


async def test_the_logs_of_a_request_name_it(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "server"):
        await post(gateway, as_json() | {"headers": {"x-request-id": "seen"}})
    [line] = [record for record in caplog.records if record.name == "server.access"]
    assert line.__dict__["outcome"] == "ok"
    assert line.__dict__["route"] == "/v1/segment"
    assert line.__dict__["status"] == 200
    assert {"image", "reason", "decode", "total"} <= line.__dict__["stages_ms"].keys()
