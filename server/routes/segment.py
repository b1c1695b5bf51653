"""``/v1/segment``: an image and a sentence in, masks out."""

from __future__ import annotations

from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from engines.deadline import Deadline
from server.collect import collect
from server.disconnects import unless_left
from server.openapi import SEGMENT_BODY, problems
from server.schemas import SegmentResponse
from server.services import CurrentServices, Services
from server.uploads import Upload, read_upload

router = APIRouter(prefix="/v1", tags=["segment"])


@router.post(
    "/segment",
    response_model=SegmentResponse,
    responses=problems(400, 408, 413, 415, 422, 500, 503, 504),
    openapi_extra=SEGMENT_BODY,
)
async def segment(request: Request, services: CurrentServices) -> Response:
    """Segment what the prompt means, as JSON or as multipart with an `image` file and the `request` JSON."""
    async with services.admission.place():
        upload = await read_upload(request, services.upload_limits)
        response = await unless_left(request, _segment(upload, services))
    return Response(response.model_dump_json(), media_type="application/json")


async def _segment(upload: Upload, services: Services) -> SegmentResponse:
    options = upload.options
    deadline = Deadline.after((options.timeout_ms or services.default_timeout_ms) / 1000)
    async with services.admission.turn(deadline):
        events = services.pipeline.segment(
            options.to_request(), lambda: services.images.load(upload.image), deadline
        )
        async with aclosing(events):
            return await collect(events, services.model.id, with_reasoning="reasoning" in options.include)
