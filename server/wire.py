"""HTTP/1.1 connections and WebSockets with bounds: on a request's header, on silence, on what is never taken."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import SecurityError
from websockets.http11 import MAX_LINE_LENGTH, Request, Response

from server.errors import (
    HEADERS_TOO_LARGE,
    MALFORMED,
    PROBLEM_JSON,
    Kind,
    as_response,
    kind_of_status,
    problem,
)
from server.schemas import Problem
from server.telemetry.middleware import REQUEST_ID
from server.telemetry.record import Record, sane_id, working_for

KEPT = ("Allow", "Upgrade")
"""What a refused handshake's answer says besides its problem."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds of a connection.

    A request's line and header have at most `header_bytes` and `headers` fields and arrive within `header_seconds`.
    A body that is not wanted any more may go on for `linger_seconds`, so that its sender comes to read why; a
    client that does not take the end of its answer is cut off after as long. One that is waited for, because it has
    not taken what was written, is cut off when it takes less than `bytes_per_second` for `stall_seconds` and
    `linger_seconds`; so is one that does not take the last of what was written before its connection closes. No more
    than `connections` are open. The answer to a WebSocket's ping may be late by `upload_seconds` while a frame arrives.
    """

    header_bytes: int = 32_768
    headers: int = 100
    header_seconds: float = 10.0
    linger_seconds: float = 5.0
    stall_seconds: float = 20.0
    bytes_per_second: int = 1000
    connections: int = 4096
    upload_seconds: float = 30.0


def bounded_protocol(limits: WireLimits) -> type[H11Protocol]:
    """Uvicorn's HTTP protocol with these bounds."""

    class Bounded(BoundedProtocol):
        bounds = limits

    return Bounded


def bounded_websocket(limits: WireLimits) -> type[BoundedWebSocket]:
    """Uvicorn's WebSocket protocol with these bounds."""

    class Bounded(BoundedWebSocket):
        bounds = limits

    return Bounded


def _with_small_headers(app: ASGIApp, bounds: WireLimits) -> ASGIApp:
    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        allowed = _allowed(scope, bounds)
        if allowed is None:
            await app(scope, receive, send)
            return
        asked = Headers(scope=scope).get(REQUEST_ID)
        refusal = _refusal(HEADERS_TOO_LARGE, allowed, asked)
        response = as_response(refusal)
        response.headers[REQUEST_ID] = str(refusal.request_id)
        await response(scope, receive, send)

    return bounded


def _allowed(scope: Scope, bounds: WireLimits) -> str | None:
    """What a header that is too large may be; h11 has counted the bytes of those alone that came in several parts."""
    if len(scope["headers"]) > bounds.headers:
        return f"the header may have {bounds.headers} fields"
    line = len(scope["raw_path"]) + len(scope["query_string"])
    if line + sum(len(name) + len(value) for name, value in scope["headers"]) > bounds.header_bytes:
        return f"the header may have {bounds.header_bytes} bytes"
    return None


def _refusal(kind: Kind, detail: str, asked: str | None = None) -> Problem:
    """A problem document for what never comes to the application; its request id (`asked`, if it is sane) is logged."""
    with working_for(Record(sane_id(asked), "OTHER")):
        logger.info("refused: %s", detail)
        return problem(kind, detail)


def _answer(kind: Kind, detail: str, asked: str | None = None, **headers: str) -> bytes:
    """A problem document as the last response of a connection; `headers` are further ones."""
    refusal = _refusal(kind, detail, asked)
    body = refusal.model_dump_json().encode()
    fields = {
        "Content-Type": PROBLEM_JSON,
        REQUEST_ID: refusal.request_id,
        "Content-Length": len(body),
        **headers,
    }
    lines = [f"HTTP/1.1 {kind.status} {kind.title}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket, with a bound on how long it closes: uvicorn waits for the last byte for ever."""

    bounds = WireLimits()
    _farewell: asyncio.TimerHandle | None = None
    _refused: Response | None = None
    """What the library would answer to a handshake that it can read."""
    _deaf = False
    """The handshake was refused: what comes now is thrown away."""
    _heard = 0.0
    """When something came last, by the event loop's clock."""

    def data_received(self, data: bytes) -> None:
        if not self._deaf:
            self._heard = self.loop.time()
            super().data_received(data)

    def keepalive_timeout(self) -> None:
        """Nobody can answer a ping in the middle of a frame: as long as one arrives, it may take an upload's time."""
        patience = self.ping_timeout or 0.0
        end = min(self._heard + patience, self.ping_sent_at + patience + self.bounds.upload_seconds)
        if (left := end - self.loop.time()) > 0:
            self.pong_timer = self.loop.call_later(left, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        if self.transport.is_closing():  # uvicorn tells the application only when the last byte is taken
            self._cut_off_later()

    def handle_connect(self, event: Request) -> None:
        """Begin, or leave it to `refuse_handshake`. What the library is asked twice it answers alike."""
        refused = self.conn.accept(event)
        if refused.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            super().handle_connect(event)
        else:
            self._refused = refused

    def refuse_handshake(self, asked: str | None) -> None:
        """Answer one that the WebSocket library does not take: uvicorn has no answer, or none that says enough.

        A body that comes all the same is taken and thrown away, else its sender never reads the answer.
        """
        kept = self._refused.headers if self._refused is not None else {}
        kind, detail = self._fault()
        self._deaf = self.handshake_complete = self.close_sent = True
        self.transport.write(
            _answer(kind, detail, asked, **{name: kept[name] for name in KEPT if name in kept})
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        self._cut_off_later()

    def _fault(self) -> tuple[Kind, str]:
        error = self.conn.handshake_exc
        if isinstance(error, SecurityError):
            return HEADERS_TOO_LARGE, f"each line of a WebSocket's header may have {MAX_LINE_LENGTH} bytes"
        if self._refused is None:
            return MALFORMED, "a WebSocket begins with a GET that has no body"
        status = self._refused.status_code
        return MALFORMED if status == MALFORMED.status else kind_of_status(status), str(error)

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if not self.disconnected:
            self._cut_off_later(self.close_timeout if self.close_timer is not None else 0.0)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._farewell is not None:
            self._farewell.cancel()
        super().connection_lost(exc)

    def _cut_off_later(self, seconds: float = 0.0) -> None:
        """Give the client `seconds` to close, and the usual time to take the last bytes."""
        if self._farewell is None:
            self._farewell = self.loop.call_later(seconds + self.bounds.linger_seconds, self.transport.abort)


class BoundedProtocol(H11Protocol):
    """Uvicorn's protocol on h11 has no clock of its own before a request is whole, nor after its answer."""

    bounds = WireLimits()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.app = _with_small_headers(self.app, self.bounds)
        self._timer: asyncio.TimerHandle | None = None
        self._timed: object = None
        """What the timer is for: the state of h11 that must not last."""
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            logger.warning("a connection was refused: %d are open", len(self.connections) - 1)
            transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        self._taken()
        super().resume_writing()
        self._await_the_last()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        scope = dict(self.scope)
        asked = Headers(scope=scope).get(REQUEST_ID)
        allowed = _allowed(scope, self.bounds)
        if allowed is not None:
            self._refuse(_answer(HEADERS_TOO_LARGE, allowed, asked))
            return
        self._stop()
        self._taken()
        super().handle_websocket_upgrade(event)
        websocket = self.transport.get_protocol()
        if isinstance(websocket, BoundedWebSocket) and not websocket.handshake_initiated:
            websocket.refuse_handshake(asked)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()
        self._await_the_last()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.bounds.linger_seconds, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """What cannot be read is answered as everything else is, with a problem document."""
        error = sys.exception()
        large = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431
        kind = HEADERS_TOO_LARGE if large else MALFORMED
        detail = f"it may have {self.bounds.header_bytes} bytes" if large else "this is not HTTP/1.1"
        self._refuse(_answer(kind, detail))

    def _refuse(self, answer: bytes) -> None:
        """The connection closes when the answer has been taken."""
        self.transport.write(answer)
        self.transport.close()
        self._await_the_last()

    def _watch(self) -> None:
        """Time what must not last: a header that does not end, a body after its answer."""
        if self.transport.get_protocol() is not self:
            return  # a WebSocket has it now
        state: object = None
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            state = h11.IDLE
        elif (
            self.conn.their_state is h11.SEND_BODY and self.cycle is not None and self.cycle.response_complete
        ):
            state = h11.SEND_BODY
        if state is self._timed:
            return
        self._stop()
        if state is not None and not self.transport.is_closing():
            self._timed = state
            seconds = self.bounds.header_seconds if state is h11.IDLE else self.bounds.linger_seconds
            self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _await_the_last(self) -> None:
        """A connection that closes does so when all has been taken; nothing else tells of one that does not take it."""
        if self.transport.is_closing() and self._stalled is None and self.transport.get_write_buffer_size():
            self._await_taking()

    def _await_taking(self) -> None:
        """Give the client time to take what has been written, and again as long as it takes enough of it."""
        seconds = self.bounds.stall_seconds + self.bounds.linger_seconds
        enough = self.transport.get_write_buffer_size() - seconds * self.bounds.bytes_per_second

        def look() -> None:
            if self.transport.get_write_buffer_size() > enough:
                self.transport.abort()
            else:
                self._await_taking()

        self._stalled = self.loop.call_later(seconds, look)

    def _taken(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        self._stalled = None

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timed = None, None
