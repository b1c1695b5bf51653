"""One WebSocket: several requests on it, one after another and side by side, each with the client's own id."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial

from fastapi import WebSocket, WebSocketDisconnect

from server.admission import Caller
from server.errors import (
    CANCELLED,
    CONFLICT,
    MALFORMED,
    NO_SUCH_REQUEST,
    UPLOAD_TIMEOUT,
    Kind,
    RequestRejected,
)
from server.events import Narrator, WireEvent
from server.images import ImageLimits
from server.messages import CancelMessage, Message, MessageRejected, SegmentMessage, parse_message
from server.outbox import Outbox
from server.schemas import FieldFault, ImageSource
from server.services import Services
from server.streaming import Telling
from server.uploads import OPTIONS_BYTES, SMALL, base64_length

POLICY, TOO_BIG, RESTART, TRY_AGAIN_LATER = (
    1008,
    1009,
    1012,
    1013,
)  # close codes of RFC 6455 and of its registry
MAX_MALFORMED = 8
"""So many frames that cannot be read are answered; one more closes the connection."""
SIDE_BY_SIDE = 256
"""So many requests of a connection may be under way, or have events that it has not taken; one more closes it."""
CLOSE_SECONDS = 5.0
LAST = frozenset({"done", "error"})
"""The events that end a request."""

logger = logging.getLogger(__name__)


def largest_frame(limits: ImageLimits) -> int:
    """Bytes of the largest frame that is of use: a request whose image is in it as base64."""
    return base64_length(limits.max_bytes) + OPTIONS_BYTES


class _Closing(Exception):
    """The connection ends with `code`; the message is the reason that the client is told."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(slots=True, eq=False)
class _Asked:
    """One request under way; `frame` is the binary frame it waits for, if it does."""

    message: SegmentMessage
    caller: Caller
    narrator: Narrator
    frame: asyncio.Future[bytes] | None
    task: asyncio.Task[None] = field(init=False)
    ended: bool = False
    """Its last event has been told."""


class Session:
    """What one connection has asked for. `run` returns when it has ended, and all its work with it."""

    def __init__(self, socket: WebSocket, services: Services) -> None:
        self._socket = socket
        self._services = services
        self._limits = services.upload_limits
        self._outbox = Outbox(services.stream_limits.buffer)
        self._requests: dict[str, _Asked] = {}
        self._owed: _Asked | None = None
        """Whose image the next binary frame is, even when it has ended: its client may not have heard of that."""
        self._disowned = False
        """The latest text frame was refused: a binary frame behind it is its image."""
        self._itself = Narrator(None, services.model.id, services.drawing)
        self._malformed = 0
        self._begun = 0

    async def run(self) -> None:
        """Serve the connection, which has been accepted, until either side ends it."""
        try:
            await self._talk()
        except WebSocketDisconnect:
            return
        except _Closing as closing:
            await self._close(closing)

    async def _talk(self) -> None:
        """Read and write side by side until one of them ends; leave no work behind."""
        sides = [asyncio.create_task(side) for side in (self._read(), self._write(), self._drained())]
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            for side in sides:
                if side.done():
                    await side
        finally:
            tasks = [*sides, *(asked.task for asked in self._requests.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self, closing: _Closing) -> None:
        logger.info("a connection was closed with %d: %s", closing.code, closing)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close(closing.code, str(closing))
        except (TimeoutError, WebSocketDisconnect, RuntimeError):
            logger.info("its client did not hear of it")

    async def _drained(self) -> None:
        """Wait until the server is stopping, then until what was asked for has ended; no more events will come."""
        await self._services.admission.closed()
        while self._requests:
            await asyncio.wait([asked.task for asked in self._requests.values()])
            await asyncio.sleep(0)  # whoever cancelled one may not have crossed it off yet
        await self._outbox.close()
        await asyncio.Event().wait()  # the writer ends the connection when it has sent the last event

    async def _write(self) -> None:
        """Send events as they come. Raises `_Closing` when the client does not take them, or none will come."""
        stall = self._services.stream_limits.stall_seconds
        try:
            while (letter := await self._outbox.get()) is not None:
                async with asyncio.timeout(stall):
                    await self._send(letter.text)
        except TimeoutError as error:
            raise _Closing(POLICY, f"no event was taken for {stall:g} s") from error
        raise _Closing(RESTART, "the server is stopping")

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_text(text)
        except RuntimeError as error:  # the client broke the protocol, and uvicorn has closed the connection
            raise WebSocketDisconnect(1006) from error

    async def _read(self) -> None:
        """Take frames as they come. Raises `WebSocketDisconnect` or `_Closing`."""
        while True:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(received.get("code", 1005))
            try:
                if (text := received.get("text")) is not None:
                    self._disowned = True
                    await self._take(await self._parse(text))
                    self._disowned = False
                else:
                    self._take_image(received["bytes"])
            except RequestRejected as error:
                await self._refuse(error)

    async def _parse(self, text: str) -> Message:
        if len(text) > largest_frame(self._limits.image):
            raise _Closing(TOO_BIG, "the frame is too large")
        return parse_message(text) if len(text) <= SMALL else await asyncio.to_thread(parse_message, text)

    async def _refuse(self, error: RequestRejected) -> None:
        """Answer a frame that cannot be followed, under its own id unless that would end another request."""
        if error.kind is MALFORMED:
            self._malformed += 1
            if self._malformed > MAX_MALFORMED:
                raise _Closing(POLICY, "too many frames that cannot be read")
        named = error.id if isinstance(error, MessageRejected) else None
        own = named is not None and named not in self._requests
        narrator = Narrator(named, self._services.model.id, self._services.drawing) if own else self._itself
        await self._outbox.put(narrator.fail(error, "socket"))

    async def _take(self, message: Message) -> None:
        if isinstance(message, SegmentMessage):
            self._begin(message)
        elif isinstance(message, CancelMessage):
            await self._cancel(message.id)
        else:
            await self._outbox.put(self._itself.pong())

    def _begin(self, message: SegmentMessage) -> None:
        if message.id in self._requests:
            raise _about_id(CONFLICT, f'a request with the id "{message.id}" is under way')
        if len(self._requests) >= SIDE_BY_SIDE:
            raise _Closing(POLICY, f"more than {SIDE_BY_SIDE} requests at once on one connection")
        if message.image is None and self._owed is not None:
            raise _Closing(POLICY, "the binary frame of another request was expected")
        frame = asyncio.get_running_loop().create_future() if message.image is None else None
        asked = _Asked(
            message,
            self._caller(),
            Narrator(message.id, self._services.model.id, self._services.drawing, message.include),
            frame,
        )
        if frame is not None:
            self._owed = asked
        self._requests[message.id] = asked
        self._begun += 1
        work = self._services.telemetry.follow(lambda: self._serve(asked), self._begun)
        asked.task = asyncio.create_task(work)

    def _caller(self) -> Caller:
        """Who asks, by the keys of this moment: one may have been taken away since the connection began."""
        try:
            return self._services.callers.identify(self._socket)
        except RequestRejected as refusal:
            raise _Closing(POLICY, str(refusal)) from refusal

    async def _cancel(self, id: str) -> None:
        if self._owed is not None and self._owed.message.id == id:
            self._owed = None
        asked = self._requests.get(id)
        if asked is None:
            raise _about_id(NO_SUCH_REQUEST, f'no request with the id "{id}" is under way')
        asked.task.cancel()
        await asyncio.wait([asked.task])
        self._requests.pop(id, None)  # a task that never ran has not done it
        if asked.task.cancelled() and not asked.ended:
            refusal = RequestRejected(CANCELLED, "cancelled by the client")
            await self._outbox.put(asked.narrator.fail(refusal, "socket"))

    def _take_image(self, data: bytes) -> None:
        if len(data) > self._limits.image.max_bytes:
            raise _Closing(TOO_BIG, "the image is too large")
        asked, self._owed = self._owed, None
        disowned, self._disowned = self._disowned, False
        if asked is None:
            if disowned:
                return
            raise RequestRejected(MALFORMED, "no request waits for a binary frame")
        if asked.frame is not None and not asked.frame.done():
            asked.frame.set_result(data)

    async def _serve(self, asked: _Asked) -> None:
        """One request from its image to its last event."""
        try:
            async with self._services.place(asked.caller):
                async with self._services.admission.bounded():
                    image = await self._image(asked)
                telling = Telling(
                    asked.message, lambda: self._services.sources.load(image), asked.caller, asked.narrator
                )
                await telling.tell(self._services, partial(self._tell, asked))
        except Exception as error:
            await self._outbox.put(asked.narrator.fail(error, "socket"))
        finally:
            self._requests.pop(asked.message.id, None)

    async def _tell(self, asked: _Asked, event: WireEvent) -> None:
        await self._outbox.put(event)
        asked.ended = event.type in LAST

    async def _image(self, asked: _Asked) -> ImageSource | bytes:
        if asked.message.image is not None:
            return asked.message.image
        assert asked.frame is not None
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await asked.frame
        except TimeoutError as error:
            message = f"the image did not arrive within {self._limits.seconds:g} s"
            raise RequestRejected(UPLOAD_TIMEOUT, message) from error


def _about_id(kind: Kind, detail: str) -> RequestRejected:
    return RequestRejected(kind, detail, [FieldFault(field="id", message=detail)])
