"""The path of one request whose grounder only reads the prompt (ConverSeg-Net): read, decode."""

from __future__ import annotations

import asyncio

from engines.events import DecisionMade, DecisionSource, Done, Usage
from engines.finishing import DecodedMask
from engines.images import PreparedImage
from engines.mllm.results import TextStates
from engines.pipeline import Pipeline
from engines.request import ONLY_MODAL
from engines.ticket import Ticket
from engines.vision.runtimes.base import DecodeItem, Sentence

NO_HEATMAP = "a model that reads the prompt's tokens makes no heatmap"
NO_DRAFTS = "a model that does not reason drafts no masks"


class ReadingPipeline(Pipeline):
    """Segments images for a bundle whose language model reads the prompt once and says nothing.

    There is one modal mask of all that is meant; a request for anything else is refused by name.
    """

    async def _by_words(self, ticket: Ticket, image: PreparedImage) -> None:
        request = ticket.request
        async with asyncio.TaskGroup() as group:
            encoding = group.create_task(self._encode(ticket, image))
            with ticket.watch.stage("read"):
                states = await self._mllm.read(image.mllm, request.prompt, timeout=ticket.deadline.left())
            self._tell(ticket)
            embedding = await encoding
        item = DecodeItem(embedding, None, image.vision.size, sentence=Sentence(states.text, states.end))
        with ticket.watch.stage("decode"):
            [decoded] = await self._decoder.submit_all([item], patient=request.patient)
        with ticket.watch.stage("finish"):
            await self._maker.finish(ticket, image, [DecodedMask(0, "modal", decoded)])
        self._end(ticket, states)

    def _tell(self, ticket: Ticket) -> None:
        request = ticket.request
        source: DecisionSource = "grounder" if request.forced_type is None else "request"
        told = (
            (ONLY_MODAL, request.forced_type is None),
            (NO_HEATMAP, request.heatmap),
            (NO_DRAFTS, request.drafts > 0),
        )
        warnings = tuple(warning for warning, holds in told if holds)
        ticket.emit(DecisionMade("modal", 1.0, source, 1, warnings))

    def _end(self, ticket: Ticket, states: TextStates) -> None:
        ticket.watch.mark("total")
        ticket.emit(Done(ticket.watch.milliseconds, Usage(prompt_tokens=states.prompt_tokens)))
