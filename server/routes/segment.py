"""``/v1/segment``: an image and a sentence in, masks out, at once or as they come."""

from __future__ import annotations

import uuid
from functools import partial
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response, WebSocket

from engines.deadline import Deadline
from engines.errors import Overloaded
from engines.images import PreparedImage
from server.accept import preferred
from server.admission import Caller
from server.admission.callers import SUBPROTOCOL
from server.answering import answer, answered
from server.disconnects import unless_left
from server.errors import DRAINING, RequestRejected
from server.events import Narrator
from server.forms import coco_results, overlay_png
from server.openapi import SEGMENT_BODY, SEGMENT_FORMS, problems
from server.schemas import CocoResults, SegmentResponse
from server.services import IN_PLACE, CurrentCaller, CurrentServices, Services
from server.sockets import POLICY, TRY_AGAIN_LATER, Session
from server.streaming import EVENT_STREAM, EventStream, Telling
from server.uploads import Upload, read_upload

JSON, PNG, COCO = "application/json", "image/png", "application/vnd.coco.results+json"

router = APIRouter(prefix="/v1", tags=["segment"])


@router.post(
    "/segment",
    response_model=SegmentResponse,
    responses={200: SEGMENT_FORMS, **problems(400, 401, 404, 406, 408, 413, 415, 422, 429, 500, 503, 504)},
    openapi_extra=SEGMENT_BODY,
    dependencies=[IN_PLACE],
)
async def segment(request: Request, services: CurrentServices, caller: CurrentCaller) -> Response:
    """Segment what the prompt means, as JSON or as multipart with an `image` file and the `request` JSON.

    With ``Accept: text/event-stream`` the answer comes as server-sent events while it is made, with ``image/png``
    as the masks over the image, with ``application/vnd.coco.results+json`` as a list of COCO results.
    """
    form = preferred(request.headers.get("accept", ""), (JSON, EVENT_STREAM, PNG, COCO))
    async with services.admission.bounded():
        upload = await read_upload(request, services.upload_limits)
    deadline = services.deadline(upload.options)
    if form == PNG:
        return Response(
            await unless_left(request, _overlay(upload, deadline, services, caller)), media_type=PNG
        )

    async def load() -> PreparedImage:
        return await services.sources.load(upload.image)

    if form == EVENT_STREAM:
        id = f"seg_{uuid.uuid4().hex}"
        narrator = Narrator(id, services.model.id, services.drawing, upload.options.include)
        return EventStream(Telling(upload.options, load, caller, narrator), services)
    response = await unless_left(request, answer(upload.options, load, deadline, services, caller))
    if form == COCO:
        results = coco_results(response, upload.options.coco)
        return Response(CocoResults(results).model_dump_json(), media_type=COCO)
    return Response(response.model_dump_json(), media_type=JSON)


async def _overlay(upload: Upload, deadline: Deadline, services: Services, caller: Caller) -> bytes:
    """The file is read once, wherever it is: to be asked about and to be drawn on, both in the request's turn."""
    async with services.admission.bounded(), deadline.bound():
        data = await services.sources.read(upload.image)

    async def load() -> PreparedImage:
        return await services.sources.load(data)

    async with answered(upload.options, load, deadline, services, caller) as response:
        draw = partial(overlay_png, data, services.upload_limits.image, response)
        return await services.drawing.drawn(draw)


@router.websocket("/segment/stream")
async def stream(socket: WebSocket, services: CurrentServices) -> None:
    """Requests, cancels and pings as text frames, images as binary ones; events as text frames."""
    offered = socket.scope["subprotocols"]
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    if not services.callers.closed and _from_another_site(socket):
        await socket.close(POLICY, "a page of another site may not ask where no key is asked for")
        return
    try:
        services.callers.identify(socket)
        async with services.sockets.place():
            await Session(socket, services).run()
    except RequestRejected as refusal:
        await socket.close(TRY_AGAIN_LATER if refusal.kind is DRAINING else POLICY, str(refusal))
    except Overloaded:
        await socket.close(TRY_AGAIN_LATER, "too many connections are open")


def _from_another_site(socket: WebSocket) -> bool:
    """Whether a browser says that it asks for a page from elsewhere: WebSockets know no other protection."""
    origin = socket.headers.get("origin")
    try:
        return origin is not None and urlsplit(origin).netloc != socket.headers.get("host")
    except ValueError:  # no browser says such a thing
        return True
