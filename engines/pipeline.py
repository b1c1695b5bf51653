"""The path of one request through the engines: an async generator of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.batching import MicroBatcher
from engines.deadline import Deadline
from engines.embeddings import Embeddings
from engines.errors import EngineError, MllmUnavailable
from engines.events import (
    Accepted,
    DecisionMade,
    DecisionSource,
    Done,
    Event,
    MaskType,
    ReasoningDelta,
    Usage,
)
from engines.finishing import DecodedMask, Finisher
from engines.images import PreparedImage
from engines.mllm.answer import AnswerFormat, ReasoningLength
from engines.mllm.image import MllmImage
from engines.mllm.results import Decision, ReasoningEnd
from engines.stopwatch import Stopwatch
from engines.vision.runtimes.base import Decoded, DecodeItem, Embedding

MaskChoice = Literal["auto", "modal", "amodal", "both"]
Vectors = NDArray[np.float32]  # [K, D]: one concentration vector per object
Emit = Callable[[Event], None]
LoadImage = Callable[[], Awaitable[PreparedImage]]


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """What one request asks for.

    `objects` None leaves their number to the model. `max_reasoning_tokens` replaces the bundle's number for
    `reasoning`; it means nothing with ``none``.
    """

    prompt: str
    mask_type: MaskChoice = "auto"
    objects: int | None = None
    reasoning: ReasoningLength = "full"
    max_reasoning_tokens: int | None = None
    heatmap: bool = False
    union: bool = False

    @property
    def forced_type(self) -> MaskType | None:
        """The one mask type the request names."""
        return self.mask_type if self.mask_type in ("modal", "amodal") else None


class Mllm(Protocol):
    """The language model's side, as `engines.mllm.client.MllmClient` has it; `timeout` in seconds."""

    def reason(
        self, image: MllmImage, prompt: str, budget: int, *, timeout: float
    ) -> AsyncGenerator[ReasoningDelta | ReasoningEnd, None]: ...

    async def decide(
        self,
        image: MllmImage,
        prompt: str,
        reasoning: str,
        *,
        mask_type: MaskType | None = None,
        objects: int | None = None,
        timeout: float,
    ) -> Decision: ...

    async def warm(self, image: MllmImage, prompt: str, *, timeout: float) -> None: ...

    async def concentrate(
        self,
        image: MllmImage,
        prompt: str,
        reasoning: str,
        mask_type: MaskType,
        objects: int,
        *,
        timeout: float,
    ) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class _Ticket:
    """One request on its way through the stages."""

    request: SegmentRequest
    deadline: Deadline
    watch: Stopwatch
    emit: Emit


class Pipeline:
    """Segments images for one bundle; `answer` is the bundle's answer format.

    Stateless between requests but for `embeddings`, which remembers, and `decoder`, in which requests meet.
    """

    def __init__(
        self,
        answer: AnswerFormat,
        mllm: Mllm,
        embeddings: Embeddings,
        decoder: MicroBatcher[DecodeItem, Decoded],
        finisher: Finisher,
    ) -> None:
        self._answer = answer
        self._mllm = mllm
        self._embeddings = embeddings
        self._decoder = decoder
        self._finisher = finisher

    async def segment(
        self, request: SegmentRequest, load: LoadImage, deadline: Deadline
    ) -> AsyncGenerator[Event, None]:
        """The request's events, `Done` last. Close the generator (`contextlib.aclosing`) to give the work up.

        The work runs in a task of its own, so nothing but this generator is ever suspended in a caller's hands.
        Its events are kept until they are asked for: at most one per reasoning token and a few per object.

        Raises:
            InvalidInput: the image or the prompt cannot be served.
            MllmUnavailable, VisionFailed, Overloaded: an engine could not do its part.
            DeadlineExceeded: the deadline passed; the work has been stopped.
        """
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        ticket = _Ticket(request, deadline, Stopwatch(deadline.elapsed()), events.put_nowait)
        work = asyncio.create_task(self._work(ticket, load))
        work.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def encode(self, image: PreparedImage) -> None:
        """Encode an image before anybody asks about it. Raises `VisionFailed` and `Overloaded`."""
        await self._embeddings.get_or_encode(image)

    def forget(self, digest: str) -> None:
        """Remember nothing of an image any longer."""
        self._embeddings.forget(digest)

    async def _work(self, ticket: _Ticket, load: LoadImage) -> None:
        """All stages within the deadline; of the faults of several stages the first one is raised."""
        limit = asyncio.timeout_at(ticket.deadline.at)
        try:
            async with limit:
                await self._stages(ticket, load)
        except (TimeoutError, BaseExceptionGroup) as error:
            if limit.expired():
                raise ticket.deadline.exceeded() from error
            if isinstance(error, BaseExceptionGroup):
                raise _first_fault(error) from error
            raise

    async def _stages(self, ticket: _Ticket, load: LoadImage) -> None:
        ticket.watch.mark("queue")
        with ticket.watch.stage("image"):
            image = await load()
        ticket.emit(Accepted(image.digest, image.width, image.height))
        async with asyncio.TaskGroup() as group:
            encoding = group.create_task(self._encode(ticket, image))
            warming = group.create_task(self._warm(ticket, image))
            reasoned = await self._reason(ticket, image)
            decision = await self._decide(ticket, image, reasoned.text)
            if decision.objects == 0:
                encoding.cancel()
                warming.cancel()
            else:
                await warming  # a prefill of the same prefix beside it would be done twice
                vectors = await self._concentrate(ticket, image, reasoned.text, decision)
                decoded = await self._decode(ticket, image, await encoding, vectors)
                await self._finish(ticket, image, decoded)
        ticket.watch.mark("total")
        prompt_tokens = reasoned.prompt_tokens or decision.prompt_tokens
        ticket.emit(Done(ticket.watch.milliseconds, Usage(prompt_tokens, reasoned.reasoning_tokens)))

    async def _encode(self, ticket: _Ticket, image: PreparedImage) -> Embedding:
        with ticket.watch.stage("encode"):
            return await self._embeddings.get_or_encode(image)

    async def _warm(self, ticket: _Ticket, image: PreparedImage) -> None:
        """Let the concentrate server prefill the prefix, unless it is about to be asked for the vectors anyway."""
        request = ticket.request
        at_once = (
            request.reasoning == "none" and request.forced_type is not None and request.objects is not None
        )
        if not at_once:
            await self._mllm.warm(image.mllm, request.prompt, timeout=ticket.deadline.left())

    async def _reason(self, ticket: _Ticket, image: PreparedImage) -> ReasoningEnd:
        request = ticket.request
        budget = self._answer.budget(request.reasoning, request.max_reasoning_tokens)
        stream = self._mllm.reason(image.mllm, request.prompt, budget, timeout=ticket.deadline.left())
        with ticket.watch.stage("reason"):
            async with aclosing(stream):
                async for item in stream:
                    if isinstance(item, ReasoningEnd):
                        return item
                    ticket.watch.mark("ttft")
                    ticket.emit(item)
        raise MllmUnavailable("the reasoning broke off")

    async def _decide(self, ticket: _Ticket, image: PreparedImage, reasoning: str) -> Decision:
        """The mask type and the number of objects; with ``both`` the model is still asked which one is meant."""
        request = ticket.request
        with ticket.watch.stage("decide"):
            decision = await self._mllm.decide(
                image.mllm,
                request.prompt,
                reasoning,
                mask_type=request.forced_type,
                objects=request.objects,
                timeout=ticket.deadline.left(),
            )
        source: DecisionSource = decision.source if request.forced_type is None else "request"
        ticket.emit(DecisionMade(decision.mask_type, decision.confidence, source, decision.objects))
        return decision

    async def _concentrate(
        self, ticket: _Ticket, image: PreparedImage, reasoning: str, decision: Decision
    ) -> dict[MaskType, Vectors]:
        """The vectors [K, D] of every mask type that is wanted."""
        request = ticket.request
        types: list[MaskType] = ["modal", "amodal"] if request.mask_type == "both" else [decision.mask_type]
        with ticket.watch.stage("concentrate"):
            async with asyncio.TaskGroup() as group:
                calls = {
                    mask_type: group.create_task(
                        self._mllm.concentrate(
                            image.mllm,
                            request.prompt,
                            reasoning,
                            mask_type,
                            decision.objects,
                            timeout=ticket.deadline.left(),
                        )
                    )
                    for mask_type in types
                }
        return {mask_type: call.result() for mask_type, call in calls.items()}

    async def _decode(
        self, ticket: _Ticket, image: PreparedImage, embedding: Embedding, vectors: dict[MaskType, Vectors]
    ) -> list[DecodedMask]:
        """Every object's masks, in one group: object by object, modal before amodal."""
        objects = len(next(iter(vectors.values())))
        wanted = [(number, mask_type) for number in range(objects) for mask_type in vectors]
        items = [DecodeItem(embedding, vectors[kind][number], image.vision.size) for number, kind in wanted]
        with ticket.watch.stage("decode"):
            decoded = await self._decoder.submit_all(items)
        return [DecodedMask(number, kind, one) for (number, kind), one in zip(wanted, decoded, strict=True)]

    async def _finish(self, ticket: _Ticket, image: PreparedImage, decoded: list[DecodedMask]) -> None:
        with ticket.watch.stage("finish"):
            if ticket.request.heatmap:
                for heatmap in await self._finisher.heatmaps(image.vision, decoded):
                    ticket.emit(heatmap)
            masks = await self._finisher.masks(image.vision, decoded)
            for mask in masks:
                ticket.watch.mark("ttfm")
                ticket.emit(mask)
            if ticket.request.mask_type == "both":
                for hidden in await self._finisher.hidden(masks):
                    ticket.emit(hidden)
            if ticket.request.union:
                for union in await self._finisher.unions(masks):
                    ticket.emit(union)


def _first_fault(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, one raised on purpose if there is one."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, EngineError)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
