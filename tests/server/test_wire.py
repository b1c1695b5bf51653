"""Connections that are slow, huge, silent or nonsense, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from typing import Any, cast

import pytest
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from server.errors import MALFORMED, RequestRejected
from server.nesting import MAX_BRACKETS, MAX_DEPTH, check_nesting
from server.running import wire_config
from server.settings import Settings
from server.sockets import largest_frame
from server.wire import BoundedProtocol, WireLimits, bounded_protocol
from tests.server.bare_lines import PATIENCE, QUICK, Leaking, line
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.server.live import listening

POST = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def emptied(gateway: Gateway) -> None:
    async with asyncio.timeout(PATIENCE):
        while gateway.services.admission.present:  # noqa: ASYNC110  # asks as an outsider
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("head", "status", "slug"),
    [
        (b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n", 431, "headers-too-large"),
        (b"".join(b"X-%d: 1\r\n" % number for number in range(200)) + b"\r\n", 431, "headers-too-large"),
        (b"Content-Length: many\r\n\r\n", 400, "malformed"),
        (b"no header\r\n\r\n", 400, "malformed"),
    ],
)
async def test_a_bad_header_is_a_problem(gateway: Gateway, head: bytes, status: int, slug: str) -> None:
    async with listening(gateway) as port, line(port) as client:
        await client.send(POST + head)
        answered, problem = await client.answer()
    assert (answered, problem["type"]) == (status, f"urn:r2sm:problem:{slug}")


async def test_a_refused_header_is_logged_under_the_id_that_its_client_reads(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(200))
    with caplog.at_level("INFO", "server.wire"):
        async with listening(gateway) as port, line(port) as client:
            await client.send(POST + b"X-Request-ID: mine.1\r\n" + many + b"\r\n")
            _, problem = await client.answer()
    assert problem["request_id"] == "mine.1"
    assert "refused: the header may have 100 fields" in caplog.messages


@pytest.mark.parametrize("first", [b"", b"POST /v1/segment HTT", POST])
async def test_a_header_that_never_ends_is_cut_off(gateway: Gateway, first: bytes) -> None:
    async with listening(gateway, QUICK) as port, line(port) as client:
        await client.send(first)
        dripping = asyncio.create_task(client.drip(b"x", 0.02) if first else asyncio.sleep(0))
        assert await client.rest() == b""
        await dripping


async def test_a_body_sent_a_byte_at_a_time_is_408_and_frees_its_place(open_gateway: OpenGateway) -> None:
    async with open_gateway(upload_seconds=0.5) as gateway, listening(gateway) as port, line(port) as client:
        await client.send(POST + b"Content-Length: 100000\r\n\r\n")
        dripping = asyncio.create_task(client.drip(b"[", 0.01))
        answered, problem = await client.answer()
        assert (answered, problem["type"]) == (408, "urn:r2sm:problem:upload-timeout")
        await emptied(gateway)
        await dripping


async def test_a_body_that_is_too_slow_need_not_be_waited_for(
    open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.uploads.GRACE_SECONDS", 0.2)
    async with open_gateway(upload_seconds=600) as gateway, listening(gateway) as port, line(port) as client:
        await client.send(POST + b"Content-Length: 100000\r\n\r\n")
        dripping = asyncio.create_task(client.drip(b"[", 0.01))
        answered, problem = await client.answer()
        assert answered == 408
        assert "slower than 1000 bytes a second" in str(problem["detail"])
        await emptied(gateway)
        await dripping


async def test_a_refused_body_may_not_go_on_for_ever(open_gateway: OpenGateway) -> None:
    async with (
        open_gateway(api_keys=f"ann:{'0' * 64}") as gateway,
        listening(gateway, QUICK) as port,
        line(port) as client,
    ):
        await client.send(POST + b"Content-Length: 100000\r\n\r\n")
        assert (await client.answer())[0] == 401
        dripping = asyncio.create_task(client.drip(b"[", 0.02))
        assert await client.rest() == b""
        await dripping


async def test_a_connection_may_be_used_again_after_a_refusal(open_gateway: OpenGateway) -> None:
    async with (
        open_gateway(api_keys=f"ann:{'0' * 64}") as gateway,
        listening(gateway) as port,
        line(port) as client,
    ):
        for _ in range(3):
            await client.send(POST + b"Content-Length: 100000\r\n\r\n" + bytes(100_000))
            assert (await client.answer())[0] == 401


@pytest.mark.parametrize(
    "bounds", [{"limits": WireLimits(connections=2, header_seconds=600)}, {"max_connections": 2}]
)
async def test_connections_are_bounded(gateway: Gateway, bounds: dict[str, Any]) -> None:
    patient = {"header_seconds": 600, **bounds}  # else a silent connection is closed for its silence
    async with listening(gateway, **patient) as port, line(port), line(port), line(port) as third:
        assert await third.rest() == b""


@pytest.mark.parametrize(
    ("end", "detail"), [(b"", "it may have 8192 bytes"), (b"\r\n\r\n", "the header may have 8192 bytes")]
)
async def test_a_header_may_be_as_large_as_the_settings_say(
    gateway: Gateway, end: bytes, detail: str
) -> None:
    """Both where it has no end and where all of it comes at once."""
    async with listening(gateway, max_header_kib=8, header_seconds=600) as port, line(port) as client:
        await client.send(POST + b"X-Long: " + b"x" * 9 * 1024 + end)
        answered, problem = await client.answer()
    assert (answered, problem["detail"]) == (431, detail)


def test_a_gateway_is_served_with_the_bounds_of_its_settings() -> None:
    settings = Settings(header_seconds=3, stall_seconds=4, max_connections=5, max_image_mb=1)
    config = wire_config(FastAPI(), settings)
    assert isinstance(config.http, type)
    assert issubclass(config.http, BoundedProtocol)
    assert config.http.bounds == settings.wire_limits
    assert config.h11_max_incomplete_event_size == settings.wire_limits.header_bytes
    assert config.ws_max_size == largest_frame(settings.upload_limits.image)
    assert (config.ws_ping_interval, config.ws_ping_timeout) == (settings.heartbeat_seconds, 4)


@pytest.mark.parametrize("text", [b"[" * 17, b'{"a":' * 17, b"[]" * MAX_BRACKETS, b'"\\"[" ' + b"[" * 17])
def test_deep_json_is_refused_before_it_is_parsed(text: bytes) -> None:
    with pytest.raises(RequestRejected) as caught:
        check_nesting(text)
    assert caught.value.kind is MALFORMED


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b'{"prompt": "' + b"[" * 100 + b'"}',
        b'"\\"' + b"[{" * 100,
        b'"never ends \\',
        b'"' + b'\\"' * 1_000_000,
    ],
)
def test_brackets_in_strings_do_not_nest(text: bytes) -> None:
    check_nesting(text)


async def test_a_client_that_takes_no_answers_gives_its_place_back(gateway: Gateway) -> None:
    question = json.dumps({"prompt": "mug", "image": {"data": base64.b64encode(photo()).decode()}}).encode()
    async with listening(gateway, QUICK) as port:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", port))
            large = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
            deaf.sendall((large + POST + b"Content-Length: %d\r\n\r\n" % len(question) + question) * 50)
            async with asyncio.timeout(PATIENCE):
                while gateway.services.admission.present == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)  # a question that has been answered is gone by then
            await emptied(gateway)


@pytest.mark.parametrize(("taken", "patient"), [(1000, True), (10, False), (0, False)])
async def test_only_a_client_that_takes_too_little_is_cut_off(taken: int, patient: bool) -> None:
    transport = Leaking(100_000, taken, 10)
    bounds = WireLimits(stall_seconds=0.02, linger_seconds=0.01, bytes_per_second=1000)
    protocol = bounded_protocol(bounds)(uvicorn.Config(FastAPI()), ServerState(), {})
    protocol.transport = cast(asyncio.Transport, transport)
    protocol.flow = FlowControl(protocol.transport)
    protocol.pause_writing()
    async with asyncio.timeout(PATIENCE):
        await transport.aborted.wait()
    assert (transport.looks >= 10) == patient


async def test_who_does_not_take_the_last_of_an_answer_is_cut_off() -> None:
    transport = Leaking(100, 0, 1, closing=True)  # so little that nothing says that it is not taken
    protocol = bounded_protocol(QUICK)(uvicorn.Config(FastAPI()), ServerState(), {})
    protocol.transport = cast(asyncio.Transport, transport)
    protocol.on_response_complete()
    async with asyncio.timeout(PATIENCE):
        await transport.aborted.wait()
