"""The path of one request whose grounder answers in boxes (EGM): decide, reason, box, decode."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from engines.errors import MllmUnavailable
from engines.events import DecisionMade, DecisionSource, Done, MaskType, Usage
from engines.finishing import DecodedMask
from engines.images import PreparedImage
from engines.mllm.boxes import Box, same_objects
from engines.mllm.results import Decision, ReasoningEnd
from engines.pipeline import Pipeline
from engines.ticket import Ticket
from engines.vision.runtimes.base import DecodeItem, Embedding
from engines.vision.visual_prompt import VisualPrompt

NO_BOX = "the model was asked for a box and gave none"
NO_HEATMAP = "a model that answers in boxes makes no heatmap"
NO_DRAFTS = "a model that answers in boxes drafts no masks"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the language model said of one mask type."""

    reasoned: ReasoningEnd
    boxes: list[Box]


class BoxPipeline(Pipeline):
    """Segments images for a bundle whose language model answers in boxes.

    The decision comes first, since the prompt asks for the box of the visible part or of the complete shape; with
    ``both`` the model reasons twice, side by side, and the reasoning of what was decided is told.
    """

    async def _by_words(self, ticket: Ticket, image: PreparedImage) -> None:
        async with asyncio.TaskGroup() as group:
            encoding = group.create_task(self._encode(ticket, image))
            decision = await self._choose(ticket, image)
            types = ticket.request.types(decision.mask_type)
            asked = {
                mask_type: group.create_task(
                    self._box(ticket, image, mask_type, told=mask_type == decision.mask_type)
                )
                for mask_type in types
            }
            answers = {mask_type: await answer for mask_type, answer in asked.items()}
            objects = _objects(ticket, {kind: answer.boxes for kind, answer in answers.items()})
            self._tell(ticket, decision, len(objects))
            if objects:
                await self._segment(ticket, image, await encoding, objects)
            else:
                encoding.cancel()
        ticket.watch.mark("total")
        said = answers[decision.mask_type].reasoned
        prompt_tokens = said.prompt_tokens or decision.prompt_tokens
        ticket.emit(Done(ticket.watch.milliseconds, Usage(prompt_tokens, said.reasoning_tokens)))

    async def _choose(self, ticket: Ticket, image: PreparedImage) -> Decision:
        request = ticket.request
        with ticket.watch.stage("decide"):
            return await self._mllm.decide(
                image.mllm,
                request.prompt,
                "",
                mask_type=request.forced_type,
                objects=1,
                timeout=ticket.deadline.left(),
            )

    async def _box(self, ticket: Ticket, image: PreparedImage, mask_type: MaskType, *, told: bool) -> _Answer:
        """Reason about the boxes of one mask type, and then write them; `told`: the reasoning becomes events."""
        request = ticket.request
        assert self._answer.boxes is not None
        question = self._answer.boxes.ask(request.prompt, mask_type)
        budget = self._answer.budget(request.reasoning, request.max_reasoning_tokens)
        stream = self._mllm.reason(image.mllm, question, budget, timeout=ticket.deadline.left())
        reasoned: ReasoningEnd | None = None
        with ticket.watch.stage("reason"):
            async with aclosing(stream):
                async for item in stream:
                    if isinstance(item, ReasoningEnd):
                        reasoned = item
                    elif told:
                        ticket.watch.mark("ttft")
                        ticket.emit(item)
        if reasoned is None:
            raise MllmUnavailable("the reasoning broke off")
        with ticket.watch.stage("box"):
            boxes = await self._mllm.boxes(
                image.mllm, question, reasoned.text, request.objects, timeout=ticket.deadline.left()
            )
        return _Answer(reasoned, boxes)

    def _tell(self, ticket: Ticket, decision: Decision, objects: int) -> None:
        request = ticket.request
        source: DecisionSource = decision.source if request.forced_type is None else "request"
        told = (
            (NO_BOX, objects == 0 and request.objects is not None),
            (NO_HEATMAP, request.heatmap),
            (NO_DRAFTS, request.drafts > 0),
        )
        warnings = tuple(warning for warning, holds in told if holds)
        ticket.emit(DecisionMade(decision.mask_type, decision.confidence, source, objects, warnings))

    async def _segment(
        self,
        ticket: Ticket,
        image: PreparedImage,
        embedding: Embedding,
        objects: Sequence[Mapping[MaskType, Box]],
    ) -> None:
        """Object by object, modal before amodal, a mask for every box."""
        wanted = [(n, kind, box) for n, boxes in enumerate(objects) for kind, box in boxes.items()]
        items = [self._item(ticket, image, embedding, box) for _, _, box in wanted]
        with ticket.watch.stage("decode"):
            decoded = await self._decoder.submit_all(items, patient=ticket.request.patient)
        masks = [DecodedMask(n, kind, one) for (n, kind, _), one in zip(wanted, decoded, strict=True)]
        with ticket.watch.stage("finish"):
            await self._maker.finish(ticket, image, masks)

    def _item(self, ticket: Ticket, image: PreparedImage, embedding: Embedding, box: Box) -> DecodeItem:
        """The request's own points beside the model's box; a box of the request takes the place of the model's."""
        visual = ticket.request.visual or VisualPrompt()
        height, width = image.vision.original
        pixels = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        prompt = VisualPrompt(visual.box or pixels, visual.points)
        sparse = prompt.sparse(image.vision.original, image.vision.size, image.vision.corner)
        return DecodeItem(embedding, None, image.vision.size, sparse)


def _objects(ticket: Ticket, boxes: Mapping[MaskType, Sequence[Box]]) -> list[dict[MaskType, Box]]:
    """Every object's box of each mask type. A request that names a box means what is in it: one object, or none."""
    own = ticket.request.visual is not None and ticket.request.visual.box is not None
    if not own and ticket.request.objects != 1:
        return same_objects(boxes)
    one = {kind: found[0] for kind, found in boxes.items() if found}
    return [one] if one else []
