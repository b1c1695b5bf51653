"""WebSockets that are refused, silent or never taken, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest
import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from server.wire import WireLimits, bounded_websocket
from tests.server.bare_lines import PATIENCE, QUICK, Leaking, line
from tests.server.conftest import Gateway
from tests.server.live import listening

UPGRADE = (
    b"GET /v1/segment/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


async def test_who_does_not_take_the_last_of_a_websocket_is_cut_off() -> None:
    transport = Leaking(100, 0, 1)
    protocol = bounded_websocket(QUICK)(uvicorn.Config(FastAPI()), ServerState(), {})
    protocol.transport = cast(asyncio.Transport, transport)

    async def done(scope: Any, receive: Any, send: Any) -> None: ...

    protocol.app, protocol.handshake_complete = done, True
    protocol.scope = {"type": "websocket"}  # type: ignore[typeddict-item]
    await protocol.run_asgi()
    async with asyncio.timeout(PATIENCE):
        await transport.aborted.wait()


async def test_who_takes_nothing_after_a_ping_that_timed_out_is_cut_off() -> None:
    transport = Leaking(100, 0, 1)
    protocol = bounded_websocket(QUICK)(uvicorn.Config(FastAPI()), ServerState(), {})
    protocol.transport = cast(asyncio.Transport, transport)
    protocol.handshake_complete, protocol.ping_timeout = True, 0.0
    protocol.keepalive_timeout()
    assert transport.is_closing()
    async with asyncio.timeout(PATIENCE):
        await transport.aborted.wait()


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (
            b"Cookie: " + b"x" * 9_000,
            431,
        ),  # more than the WebSocket library takes of a line, and less than we do
        (b"\r\n".join(b"X-%d: 1" % number for number in range(110)), 431),
        (b"Content-Length: 3", 400),
        (b"Transfer-Encoding: chunked", 400),
    ],
)
async def test_a_websocket_that_is_refused_is_told_so_and_keeps_no_server_from_stopping(
    gateway: Gateway, field: bytes, status: int
) -> None:
    async with listening(gateway) as port, line(port) as client:
        await client.send(UPGRADE + b"X-Request-ID: mine.2\r\n" + field + b"\r\n\r\n")
        answered, problem = await client.answer()
        assert (answered, problem["request_id"]) == (status, "mine.2")
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("begin", "end", "status", "slug", "told"),
    [
        (b"Sec-WebSocket-Key", b"X-Key", 400, "malformed", "missing Sec-WebSocket-Key header"),
        (b"Version: 13", b"Version: 8", 400, "malformed", "invalid Sec-WebSocket-Version header: 8"),
        (b"GET", b"POST", 405, "method-not-allowed", "\r\nallow: get\r\n"),
        (b"Upgrade: w", b"Upgrade: h2c\r\nUpgrade: w", 426, "upgrade-required", "\r\nupgrade: websocket\r\n"),
    ],
)
async def test_a_handshake_that_is_none_is_a_problem(
    gateway: Gateway,
    caplog: pytest.LogCaptureFixture,
    begin: bytes,
    end: bytes,
    status: int,
    slug: str,
    told: str,
) -> None:
    """What is `told` stands in the header or in the detail."""
    with caplog.at_level("INFO", "server.wire"):
        async with listening(gateway) as port, line(port) as client:
            await client.send(UPGRADE.replace(begin, end) + b"X-Request-ID: mine.3\r\n\r\n")
            answered, problem = await client.answer()
            assert await client.rest() == b""
    assert (answered, problem["type"]) == (status, f"urn:r2sm:problem:{slug}")
    assert problem["request_id"] == "mine.3"
    assert told in f"{client.head} {problem['detail']}"
    assert f"refused: {problem['detail']}" in caplog.messages


async def test_who_sends_a_body_with_a_handshake_reads_why_it_is_refused(gateway: Gateway) -> None:
    size = 30_000_000  # more than lies on the way

    def ask(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(UPGRADE + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
            return client.makefile("rb").read()

    async with listening(gateway) as port:
        answer = await asyncio.to_thread(ask, port)
    assert b"urn:r2sm:problem:malformed" in answer


async def test_a_refused_websocket_that_stays_is_cut_off_and_can_be_shut_down() -> None:
    transport = Leaking(100, 0, 1)
    protocol = bounded_websocket(QUICK)(uvicorn.Config(FastAPI()), ServerState(), {})
    protocol.transport = cast(asyncio.Transport, transport)
    protocol.data_received(UPGRADE + b"Content-Length: 3\r\n\r\n")
    protocol.refuse_handshake(None)
    protocol.shutdown()
    assert transport.is_closing()
    async with asyncio.timeout(PATIENCE):
        await transport.aborted.wait()


@pytest.mark.parametrize(("upload_seconds", "patient"), [(600.0, True), (0.1, False)])
async def test_a_ping_waits_for_the_end_of_a_large_frame_for_a_while(
    upload_seconds: float, patient: bool, gateway: Gateway
) -> None:
    bounds = WireLimits(upload_seconds=upload_seconds)
    config = {"heartbeat_seconds": 0.05, "stall_seconds": 0.2, "limits": bounds}
    async with listening(gateway, **config) as port, line(port) as client:  # type: ignore[arg-type]
        await client.send(UPGRADE + b"\r\n")
        assert b" 101 " in await client.until(b"\r\n\r\n")
        await client.send(bytes((0x82, 0x80 | 126, 0x10, 0)) + bytes(4))  # a binary frame of 4 KiB begins
        dripping = asyncio.create_task(client.drip(b"x", 0.02))
        rest = asyncio.create_task(client.rest())
        _, waiting = await asyncio.wait([rest], timeout=1.5 if patient else PATIENCE)
        assert bool(waiting) == patient
        for task in (dripping, rest):
            task.cancel()
        await asyncio.gather(dripping, rest, return_exceptions=True)


async def test_a_connection_that_becomes_a_websocket_stays_one(gateway: Gateway) -> None:
    upgrade = UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    ping = b'{"type":"ping"}'
    async with listening(gateway, QUICK) as port, line(port) as socket:
        await socket.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in await socket.until(b'"live"}')
        await socket.send(upgrade)
        head = (await socket.until(b"\r\n\r\n")).lower()
        assert b" 101 " in head
        assert b"deflate" not in head, "nothing that is compressed is read"
        await asyncio.sleep(3 * QUICK.linger_seconds)
        await socket.send(bytes((0x81, 0x80 | len(ping))) + bytes(4) + ping)  # a text frame, its mask zeros
        assert b"pong" in await socket.until(b"}")
