"""``/v1/segment/batch``: several prompts on one image."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request

from engines.deadline import Deadline
from engines.images import PreparedImage
from server.admission import Caller
from server.answering import answer
from server.disconnects import unless_left
from server.errors import problem_of
from server.openapi import BATCH_BODY, problems
from server.schemas import BatchBody, BatchResponse, BatchResult, SegmentOptions
from server.services import IN_PLACE, CurrentCaller, CurrentServices, Services
from server.uploads import read_batch

router = APIRouter(prefix="/v1", tags=["segment"])


@router.post(
    "/segment/batch",
    responses=problems(
        400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504, but={"model-unavailable", "vision-failed"}
    ),
    openapi_extra=BATCH_BODY,
    dependencies=[IN_PLACE],
)
async def batch(request: Request, services: CurrentServices, caller: CurrentCaller) -> BatchResponse:
    """Segment several prompts on one image. The results come in their order; one that fails fails alone.

    Each prompt counts as a request against the caller's rate.
    """
    async with services.admission.bounded():
        body = await read_batch(request, services.upload_limits)
        await services.callers.charge_batch(caller, len(body.requests))
    return await unless_left(request, _answer_all(body, services, caller))


async def _answer_all(body: BatchBody, services: Services, caller: Caller) -> BatchResponse:
    deadlines = [services.deadline(options) for options in body.requests]
    async with services.admission.bounded(), max(deadlines, key=lambda deadline: deadline.at).bound():
        image = await services.sources.load(body.image)
    asked = zip(body.requests, deadlines, strict=True)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_answer(options, image, deadline, services, caller))
            for options, deadline in asked
        ]
    return BatchResponse(results=[task.result() for task in tasks])


async def _answer(
    options: SegmentOptions, image: PreparedImage, deadline: Deadline, services: Services, caller: Caller
) -> BatchResult:
    async def load() -> PreparedImage:
        return image

    try:
        return BatchResult(status=200, response=await answer(options, load, deadline, services, caller))
    except Exception as error:
        problem = problem_of(error, "batch")
        return BatchResult(status=problem.status, problem=problem)
