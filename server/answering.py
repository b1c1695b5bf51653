"""One request answered at once: its turn, its events, its response."""

from __future__ import annotations

from contextlib import aclosing

from engines.pipeline import LoadImage
from server.admission import Caller
from server.collect import collect
from server.schemas import SegmentOptions, SegmentResponse
from server.services import Services


async def answer(
    options: SegmentOptions, load: LoadImage, services: Services, caller: Caller
) -> SegmentResponse:
    """Wait for a turn and for every event. Raises what the pipeline and `load` raise."""
    deadline = services.deadline(options)
    events = services.pipeline.segment(options.to_request(), load, deadline)
    async with services.admission.turn(deadline, caller.priority), aclosing(events):
        return await collect(events, services.model.id, options.include)
