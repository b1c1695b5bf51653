"""The path of one request through the engines: an async generator of events."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from engines.batching import MicroBatcher
from engines.deadline import Deadline
from engines.draft_budget import Clock, DraftBudget, DraftLimits, Experience
from engines.drafts import Drafter
from engines.early import EarlyDecoder
from engines.embeddings import Embeddings
from engines.errors import MllmUnavailable, first_fault
from engines.events import (
    Accepted,
    DecisionMade,
    DecisionSource,
    Done,
    Event,
    MaskDrafted,
    MaskReady,
    MaskType,
    Usage,
)
from engines.finishing import Finisher
from engines.images import PreparedImage
from engines.making import MaskMaker
from engines.mllm.answer import AnswerFormat
from engines.mllm.interface import Hear, Mllm, Vector, Vectors
from engines.mllm.results import NOTHING_KNOWN, Decision, KnownStates, ReasoningEnd
from engines.observers import NoPipelineObserver, PipelineObserver
from engines.request import SegmentRequest
from engines.stopwatch import Stopwatch
from engines.ticket import Ticket
from engines.vision.runtimes.base import Decoded, DecodeItem, Embedding

NO_AMODAL = "the model was trained on visible parts only: its amodal mask is its modal one"
HEAD_START_SECONDS = 0.004
"""About what vLLM's front end, which takes one call after another, needs for one."""

ByType = dict[MaskType, Vectors]
logger = logging.getLogger(__name__)
Ahead = asyncio.Task[ByType | None]
"""Vectors that are asked for early, if they are."""
LoadImage = Callable[[], Awaitable[PreparedImage]]


class Pipeline:
    """Segments images for one bundle; `answer` is the bundle's answer format.

    Stateless between requests but for `embeddings`, which remembers, `decoder`, in which requests meet, and how long
    requests have taken, from which follows how many of the wanted drafts are made. `clock` tells seconds.
    """

    def __init__(
        self,
        answer: AnswerFormat,
        mllm: Mllm,
        embeddings: Embeddings,
        decoder: MicroBatcher[DecodeItem, Decoded],
        finisher: Finisher,
        drafts: DraftLimits | None = None,
        observer: PipelineObserver | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._answer = answer
        self._mllm = mllm
        self._embeddings = embeddings
        self._decoder = decoder
        self._finisher = finisher
        self._maker = MaskMaker(decoder, finisher)
        self._observer = observer or NoPipelineObserver()
        self._drafts = drafts or DraftLimits()
        self._experience = Experience()
        self._clock = clock
        self._under_way = 0

    async def segment(
        self, request: SegmentRequest, load: LoadImage, deadline: Deadline
    ) -> AsyncGenerator[Event, None]:
        """The request's events, `Done` last. Close the generator (`contextlib.aclosing`) to give the work up.

        The work runs in a task of its own, so nothing but this generator is ever suspended in a caller's hands.
        Its events are kept until they are asked for: at most one per reasoning token and a few per object.

        Raises:
            InvalidInput: the image or the prompt cannot be served, or the model cannot do this (told before any work).
            MllmUnavailable, VisionFailed, Overloaded: an engine could not do its part.
            DeadlineExceeded: the deadline passed; the work has been stopped.
        """
        request.check(self._answer)
        events: asyncio.Queue[Event | None] = asyncio.Queue()

        def emit(event: Event) -> None:
            self._observer.told(event)
            events.put_nowait(event)

        self._observer.asked(request.prompt)
        watch = Stopwatch(deadline.elapsed(), self._observer, self._clock)
        ticket = Ticket(request, deadline, watch, emit)
        work = asyncio.create_task(self._work(ticket, load))
        work.add_done_callback(lambda _: events.put_nowait(None))
        self._under_way += 1
        try:
            while (event := await events.get()) is not None:
                yield event
            await work
        finally:
            self._under_way -= 1
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def encode(self, image: PreparedImage) -> None:
        """Encode an image before anybody asks about it; until then others go first.

        Raises:
            VisionFailed, Overloaded: the engine could not do its part.
        """
        await self._embeddings.get_or_encode(image, patient=True)

    async def forget(self, digest: str) -> None:
        """Remember nothing of an image any longer."""
        await self._embeddings.forget(digest)

    async def _work(self, ticket: Ticket, load: LoadImage) -> None:
        """All stages within the deadline; of the faults of several stages the first one is raised."""
        limit = asyncio.timeout_at(ticket.deadline.at)
        try:
            async with limit:
                await self._stages(ticket, load)
        except (TimeoutError, BaseExceptionGroup) as error:
            if limit.expired():
                raise ticket.deadline.exceeded() from error
            if isinstance(error, BaseExceptionGroup):
                raise first_fault(error) from error
            raise

    async def _stages(self, ticket: Ticket, load: LoadImage) -> None:
        ticket.watch.mark("queue")
        with ticket.watch.stage("image"):
            image = await load()
        if ticket.request.visual is not None:
            ticket.request.visual.check(image.width, image.height)
        ticket.emit(Accepted(image.digest, image.width, image.height))
        if ticket.request.prompt:
            await self._by_words(ticket, image)
        else:
            await self._by_points(ticket, image)

    async def _by_words(self, ticket: Ticket, image: PreparedImage) -> None:
        async with asyncio.TaskGroup() as group:
            encoding = group.create_task(self._encode(ticket, image))
            warming = group.create_task(self._warm(ticket, image))
            drafter = self._drafter(ticket, image, encoding, warming)
            await self._go_ahead(warming)
            async with self._early_decoder(ticket, image, encoding) as early:
                reasoned = await self._reason(ticket, image, drafter, early.hear)
                foreseeing = group.create_task(self._foresee(ticket, image, reasoned, warming))
                decision, vectors = await self._conclude(ticket, image, reasoned, warming)
                masks: list[MaskReady] = []
                if decision.objects == 0:
                    encoding.cancel()
                    warming.cancel()
                    foreseeing.cancel()
                else:
                    await self._warmed(warming)
                    if vectors is None:
                        vectors = await self._concentrate(ticket, image, reasoned.text, decision, foreseeing)
                    masks = await self._maker.make(ticket, image, await encoding, vectors, early.begun)
                    self._learn(ticket)
        ticket.watch.mark("total")
        scores = await self._finisher.score(drafter.drawn, masks)
        prompt_tokens = reasoned.prompt_tokens or decision.prompt_tokens
        usage = Usage(prompt_tokens, reasoned.reasoning_tokens)
        ticket.emit(Done(ticket.watch.milliseconds, usage, tuple(scores)))

    async def _by_points(self, ticket: Ticket, image: PreparedImage) -> None:
        """One modal mask of what is pointed at: nobody asks the language model."""
        ticket.emit(DecisionMade("modal", 1.0, "request", objects=1))
        await self._maker.make(ticket, image, await self._encode(ticket, image), {"modal": [None]})
        ticket.watch.mark("total")
        ticket.emit(Done(ticket.watch.milliseconds))

    async def _encode(self, ticket: Ticket, image: PreparedImage) -> Embedding:
        with ticket.watch.stage("encode"):
            return await self._embeddings.get_or_encode(image, patient=ticket.request.patient)

    async def _warm(self, ticket: Ticket, image: PreparedImage) -> ByType | None:
        """Let the concentrate server prefill the prefix, unless it is about to be asked for the vectors anyway.

        To ask for a first draft's one vector does that, too, and gives the vector.
        """
        request = ticket.request
        if request.reasoning == "none" and request.forced_type is not None and request.objects is not None:
            return None
        with ticket.watch.stage("warm"):
            if request.drafts_wanted and request.likely_objects == 1 and self._idle():
                try:
                    return await self._vectors(ticket, image, "", [request.draft_type], 1)
                except MllmUnavailable as error:  # it was for a draft alone
                    logger.info("a first draft was given up: %s", error)
            left = ticket.deadline.left()
            await self._mllm.warm(image.mllm, request.prompt, objects=request.objects, timeout=left)
        return None

    async def _go_ahead(self, warming: Ahead) -> None:
        """Let a draft's short question come before the long one, where one server is asked both."""
        if not self._mllm.concentrates_apart:
            await asyncio.wait([warming], timeout=HEAD_START_SECONDS)

    async def _warmed(self, warming: Ahead) -> None:
        """Else a prefill of the same prefix is done twice, where the server that reasons has not read it long since."""
        if self._mllm.concentrates_apart:
            await asyncio.shield(warming)
        else:
            warming.cancel()

    def _drafter(
        self,
        ticket: Ticket,
        image: PreparedImage,
        encoding: asyncio.Task[Embedding],
        warming: Ahead,
    ) -> Drafter:
        """Drafts need what the masks need, and leave it to them: they only wait for it."""
        request = ticket.request
        budget = DraftBudget(self._drafts.share, self._experience, request.known_length, self._clock)

        async def draw(reasoning: str) -> list[MaskReady]:
            vectors = await asyncio.shield(warming)
            if vectors is None or reasoning:
                types, objects = [request.draft_type], request.likely_objects
                with budget.spending():
                    vectors = await self._vectors(ticket, image, reasoning, types, objects)
            embedding = await asyncio.shield(encoding)
            if not self._idle():
                return []
            with budget.spending():
                decoded = await self._maker.decode(ticket, image, embedding, vectors, patient=True)
                return await self._finisher.masks(image.vision, decoded)

        def emit(draft: MaskDrafted) -> None:
            ticket.watch.mark("ttfd")
            ticket.emit(draft)

        return Drafter(request.drafts_wanted, draw, self._idle, budget.affords_another, emit)

    def _early_decoder(
        self, ticket: Ticket, image: PreparedImage, encoding: asyncio.Task[Embedding]
    ) -> EarlyDecoder:
        """In company vectors are left to the batch that they will be decoded in."""

        async def decode(mask_type: MaskType, vector: Vector) -> Decoded:
            with ticket.watch.stage("early"):
                [one] = await self._maker.decode(ticket, image, encoding.result(), {mask_type: [vector]})
            return one.decoded

        def wanted(mask_type: MaskType) -> bool:
            meant = ticket.request.forced_type in (None, mask_type)
            return meant and self._idle() and encoding.done()

        return EarlyDecoder(decode, wanted, most=ticket.request.objects)

    def _idle(self) -> bool:
        """Whether there is room for work that can be done without."""
        return self._under_way <= self._drafts.up_to and self._decoder.pending == 0

    def _learn(self, ticket: Ticket) -> None:
        """Remember how long the stages took that others' drafts are weighed against; company would have slowed them."""
        if self._idle():
            took = ticket.watch.milliseconds
            reading = max(took["concentrate"], took.get("foresee", 0.0))  # nobody waits for what was foreseen
            decoding = max(took["decode"], took.get("early", 0.0))
            making = reading + decoding + took["finish"]
            self._experience.note(ticket.request.known_length, took["reason"] / 1000, making / 1000)

    async def _reason(
        self, ticket: Ticket, image: PreparedImage, drafter: Drafter, hear: Hear
    ) -> ReasoningEnd:
        request = ticket.request
        budget = self._answer.budget(request.reasoning, request.max_reasoning_tokens)
        left = ticket.deadline.left()
        stream = self._mllm.reason(
            image.mllm, request.prompt, budget, objects=request.objects, hear=hear, timeout=left
        )
        text = ""
        with ticket.watch.stage("reason"):
            async with aclosing(stream), drafter:
                async for item in stream:
                    if isinstance(item, ReasoningEnd):
                        return item
                    ticket.watch.mark("ttft")
                    ticket.emit(item)
                    text += item.text
                    drafter.hear(text, item.tokens)
        raise MllmUnavailable("the reasoning broke off")

    async def _conclude(
        self, ticket: Ticket, image: PreparedImage, reasoned: ReasoningEnd, warming: Ahead
    ) -> tuple[Decision, ByType | None]:
        """The mask type and the number of objects, with the vectors where the model has written its answer itself.

        With ``both`` it is still asked which one is meant.
        """
        request = ticket.request
        concluded = await self._read_off(ticket, image, reasoned, warming)
        decision, vectors = concluded or (await self._decide(ticket, image, reasoned), None)
        source: DecisionSource = decision.source if request.forced_type is None else "request"
        blind = self._answer.tokens.modal is None and "amodal" in request.types(decision.mask_type)
        warnings = (NO_AMODAL,) if blind else ()
        ticket.emit(DecisionMade(decision.mask_type, decision.confidence, source, decision.objects, warnings))
        return decision, vectors

    async def _read_off(
        self, ticket: Ticket, image: PreparedImage, reasoned: ReasoningEnd, warming: Ahead
    ) -> tuple[Decision, ByType] | None:
        """What follows from the answer the model has written, if it decides and has."""
        request, written = ticket.request, reasoned.written
        if written is None or request.forced_type is not None:
            return None
        await self._warmed(warming)
        types, objects = request.types(written.mask_type), request.objects or written.objects
        with ticket.watch.stage("concentrate"):
            left = ticket.deadline.left()
            return await self._mllm.conclude(
                image.mllm, request.prompt, reasoned.text, written, types, objects, timeout=left
            )

    async def _decide(self, ticket: Ticket, image: PreparedImage, reasoned: ReasoningEnd) -> Decision:
        """What the request leaves open is asked, unless the model has written it for the very type that is wanted."""
        request = ticket.request
        with ticket.watch.stage("decide"):
            return await self._mllm.decide(
                image.mllm,
                request.prompt,
                reasoned.text,
                mask_type=request.forced_type,
                objects=request.objects,
                written=reasoned.written,
                timeout=ticket.deadline.left(),
            )

    async def _foresee(
        self, ticket: Ticket, image: PreparedImage, reasoned: ReasoningEnd, warming: Ahead
    ) -> ByType | None:
        """The vectors that either decision would lead to, while a model that has written none is asked for it.

        A server of their own has nothing else to do then; in company it has, and there are none.
        """
        request, decides = ticket.request, self._answer.tokens.modal is not None
        if reasoned.written or request.forced_type or not (decides and self._idle()):
            return None
        if not self._mllm.concentrates_apart:
            return None
        await asyncio.shield(warming)
        try:
            with ticket.watch.stage("foresee"):
                types: tuple[MaskType, ...] = ("modal", "amodal")
                return await self._vectors(ticket, image, reasoned.text, types, request.likely_objects)
        except MllmUnavailable:
            return None  # they are asked for again, once it is known which

    async def _concentrate(
        self,
        ticket: Ticket,
        image: PreparedImage,
        reasoning: str,
        decision: Decision,
        foreseeing: Ahead,
    ) -> ByType:
        """The vectors [K, D] of every mask type that is wanted."""
        types = ticket.request.types(decision.mask_type)
        with ticket.watch.stage("concentrate"):
            foreseen = await foreseeing
            if foreseen is not None and decision.objects == ticket.request.likely_objects:
                return {kind: foreseen[kind] for kind in types}
            return await self._vectors(ticket, image, reasoning, types, decision.objects, decision.known)

    async def _vectors(
        self,
        ticket: Ticket,
        image: PreparedImage,
        reasoning: str,
        mask_types: Sequence[MaskType],
        objects: int,
        known: KnownStates = NOTHING_KNOWN,
    ) -> ByType:
        request, left = ticket.request, ticket.deadline.left()
        return await self._mllm.concentrate(
            image.mllm, request.prompt, reasoning, mask_types, objects, known=known, timeout=left
        )
