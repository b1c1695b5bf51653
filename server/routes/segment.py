"""``/v1/segment``: an image and a sentence in, masks out, at once or as they come."""

from __future__ import annotations

import asyncio
import uuid

from fastapi import APIRouter, Request, Response, WebSocket

from engines.errors import Overloaded
from engines.images import PreparedImage
from server.accept import preferred
from server.answering import answer
from server.disconnects import unless_left
from server.events import Narrator
from server.forms import coco_results, overlay_png
from server.openapi import SEGMENT_BODY, SEGMENT_FORMS, problems
from server.schemas import CocoResults, SegmentResponse
from server.services import IN_PLACE, CurrentServices, Services
from server.sockets import TRY_AGAIN_LATER, Session
from server.streaming import EVENT_STREAM, EventStream, Telling
from server.uploads import Upload, read_upload

JSON, PNG, COCO = "application/json", "image/png", "application/vnd.coco.results+json"

router = APIRouter(prefix="/v1", tags=["segment"])


@router.post(
    "/segment",
    response_model=SegmentResponse,
    responses={200: SEGMENT_FORMS, **problems(400, 404, 406, 408, 413, 415, 422, 500, 503, 504)},
    openapi_extra=SEGMENT_BODY,
    dependencies=[IN_PLACE],
)
async def segment(request: Request, services: CurrentServices) -> Response:
    """Segment what the prompt means, as JSON or as multipart with an `image` file and the `request` JSON.

    With ``Accept: text/event-stream`` the answer comes as server-sent events while it is made, with ``image/png``
    as the masks over the image, with ``application/vnd.coco.results+json`` as a list of COCO results.
    """
    form = preferred(request.headers.get("accept", ""), (JSON, EVENT_STREAM, PNG, COCO))
    upload = await read_upload(request, services.upload_limits)
    if form == PNG:
        return Response(await unless_left(request, _overlay(upload, services)), media_type=PNG)

    async def load() -> PreparedImage:
        return await services.sources.load(upload.image)

    if form == EVENT_STREAM:
        narrator = Narrator(f"seg_{uuid.uuid4().hex}", services.model.id, upload.options.include)
        return EventStream(Telling(upload.options, load, narrator), services)
    response = await unless_left(request, answer(upload.options, load, services))
    if form == COCO:
        results = coco_results(response, upload.options.coco)
        return Response(CocoResults(results).model_dump_json(), media_type=COCO)
    return Response(response.model_dump_json(), media_type=JSON)


async def _overlay(upload: Upload, services: Services) -> bytes:
    """The file is read once, wherever it is: to be asked about and to be drawn on."""
    data = await services.sources.read(upload.image)
    response = await answer(upload.options, lambda: services.sources.load(data), services)
    return await asyncio.to_thread(overlay_png, data, services.upload_limits.image, response)


@router.websocket("/segment/stream")
async def stream(socket: WebSocket, services: CurrentServices) -> None:
    """Requests, cancels and pings as text frames, images as binary ones; events as text frames."""
    await socket.accept()
    try:
        async with services.sockets.place():
            await Session(socket, services).run()
    except Overloaded:
        await socket.close(TRY_AGAIN_LATER, "too many connections are open")
