"""One request told event by event, and the server-sent events that carry it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Response
from starlette.types import Receive, Scope, Send

from engines.deadline import Deadline
from engines.pipeline import LoadImage
from server.admission import Caller
from server.errors import as_response
from server.events import ErrorEvent, Narrator, WireEvent
from server.outbox import Letter, Outbox
from server.schemas import SegmentOptions
from server.services import Services

EVENT_STREAM = "text/event-stream"
HEARTBEAT = b": still here\n\n"
UNICODE_LINE_ENDS = "\x85\u2028\u2029"
"""Those that JSON leaves as they are."""

logger = logging.getLogger(__name__)
Put = Callable[[WireEvent], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Telling:
    """One request to be told: what is asked, how its image is got, who asks, and who tells it."""

    options: SegmentOptions
    load: LoadImage
    caller: Caller
    narrator: Narrator

    async def tell(self, services: Services, put: Put) -> None:
        """Put every event of the request, the last one `done` or `error`. Cancelled, the work stops."""
        try:
            await self._tell_all(services, put)
        except Exception as error:
            await put(self.narrator.fail(error, "stream"))

    async def _tell_all(self, services: Services, put: Put) -> None:
        deadline = services.deadline(self.options)
        async with services.admission.turn(deadline, self.caller.priority):
            await self._forward(services, deadline, put)

    async def _forward(self, services: Services, deadline: Deadline, put: Put) -> None:
        async with aclosing(
            services.pipeline.segment(
                self.options.to_request(patient=self.caller.patient), self.load, deadline
            )
        ) as events:
            async for event in events:
                async with deadline.bound():  # a reader that is slow keeps its turn no longer
                    await put(await self.narrator.tell(event))


class EventStream(Response):
    """Server-sent events. What fails before the first event is an ordinary problem response.

    The work stops when the client leaves, or takes nothing for as long as the limits allow.
    """

    media_type = EVENT_STREAM

    def __init__(self, telling: Telling, services: Services) -> None:
        super().__init__(
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type=EVENT_STREAM
        )
        del self.headers["content-length"]
        self._telling = telling
        self._services = services
        self._limits = services.stream_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outbox = Outbox(self._limits.buffer)
        tasks = [
            asyncio.create_task(self._write(outbox, scope, receive, send)),
            asyncio.create_task(_left(receive)),
            asyncio.create_task(self._work(outbox)),
        ]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    await task
        except TimeoutError:
            logger.info("a client took no event for %g s", self._limits.stall_seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, outbox: Outbox) -> None:
        try:
            await self._telling.tell(self._services, outbox.put)
        finally:
            await outbox.close()

    async def _write(self, outbox: Outbox, scope: Scope, receive: Receive, send: Send) -> None:
        """Write what comes. Raises `TimeoutError` when the client does not take it."""
        letter = await self._next(outbox)
        if isinstance(letter, Letter) and letter.type == "error":
            failed = ErrorEvent.model_validate_json(letter.text)
            await as_response(failed.problem, failed.retry_after or 0)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while letter is not None:
            body = HEARTBEAT if isinstance(letter, bytes) else as_sse(letter)
            async with asyncio.timeout(self._limits.stall_seconds):
                await send({"type": "http.response.body", "body": body, "more_body": True})
            letter = await self._next(outbox)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self, outbox: Outbox) -> Letter | bytes | None:
        """The next event, or a heartbeat if it takes too long."""
        try:
            async with asyncio.timeout(self._limits.heartbeat_seconds):
                return await outbox.get()
        except TimeoutError:
            return HEARTBEAT


def as_sse(letter: Letter) -> bytes:
    """An event in the format of server-sent events: its type and its JSON, on one line by anybody's reckoning."""
    text = letter.text
    for character in UNICODE_LINE_ENDS:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f"event: {letter.type}\ndata: {text}\n\n".encode()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
