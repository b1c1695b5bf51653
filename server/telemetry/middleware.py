"""The outermost middleware: every request has an id, a record and a span, and every response names them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.telemetry.record import CANCELLED, OK, Record, sane_id
from server.telemetry.telemetry import Telemetry

REQUEST_ID = "X-Request-ID"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
ANSWERS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
WATCHED = ("/livez", "/readyz", "/metrics")
CLIENT_CLOSED_REQUEST = 499
ELSEWHERE = "elsewhere"


def observe_requests(app: FastAPI) -> None:
    """Measure everything that the application answers, its last resort for errors included."""
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: _Observed(build())  # type: ignore[method-assign]


class _Observed:
    """The application within; its services, and so its telemetry, are there when the first request comes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        telemetry: Telemetry = scope["app"].state.services.telemetry
        headers = Headers(scope=scope)
        quiet = scope["path"].startswith(WATCHED)
        record = Record(sane_id(headers.get(REQUEST_ID)), _method(scope), quiet=quiet)
        answered = _Answered(record, telemetry, scope, send)
        within = telemetry.serving if scope["type"] == "http" else telemetry.connected
        with within(record, headers):
            try:
                await self._app(scope, receive, answered)
                record.outcome = record.outcome or answered.outcome()
            finally:
                record.route = _route(scope)


class _Answered:
    """Passes on what the application sends, with the request's id in its header."""

    def __init__(self, record: Record, telemetry: Telemetry, scope: Scope, send: Send) -> None:
        self._record = record
        self._scope = scope
        self._telemetry = telemetry
        self._send = send
        self._streams = False

    async def __call__(self, message: Message) -> None:
        if message["type"] in ANSWERS:
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self._record.id
            headers.update(self._telemetry.spans.outgoing())
            self._record.route = _route(self._scope)  # known now; what follows on a WebSocket belongs to it
            self._record.status = message.get("status")
            self._streams = headers.get("content-type", "").startswith("text/event-stream")
        await self._send(message)

    def outcome(self) -> str:
        """How a request ended that ended in no problem document."""
        status = self._record.status
        if status in (None, CLIENT_CLOSED_REQUEST) or (self._streams and not self._record.done):
            return CANCELLED
        return OK if status is not None and status < 400 else f"status-{status}"


def _route(scope: Scope) -> str:
    """The path as the route writes it, never as the client did."""
    return getattr(scope.get("route"), "path", "") or ELSEWHERE


def _method(scope: Scope) -> str:
    if scope["type"] == "websocket":
        return "WS"
    return scope["method"] if scope["method"] in METHODS else "OTHER"
