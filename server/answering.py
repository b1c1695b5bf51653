"""One request answered at once: its turn, its events, its response."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from engines.deadline import Deadline
from engines.pipeline import LoadImage
from server.admission import Caller
from server.collect import collect
from server.schemas import SegmentOptions, SegmentResponse
from server.services import Services


@asynccontextmanager
async def answered(
    options: SegmentOptions, load: LoadImage, deadline: Deadline, services: Services, caller: Caller
) -> AsyncIterator[SegmentResponse]:
    """The response, while its turn lasts. Waits for both; raises what the pipeline and `load` raise.

    What is made of the response inside ends with its deadline, too. Raises `DeadlineExceeded` then.
    """
    events = services.pipeline.segment(options.to_request(), load, deadline)
    async with services.admission.turn(deadline, caller.priority), aclosing(events), deadline.bound():
        yield await collect(events, services.model.id, options.include, services.drawing)


async def answer(
    options: SegmentOptions, load: LoadImage, deadline: Deadline, services: Services, caller: Caller
) -> SegmentResponse:
    """The response, its turn over. Raises what `answered` raises."""
    async with answered(options, load, deadline, services, caller) as response:
        return response
