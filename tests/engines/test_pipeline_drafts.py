"""Drafts and visual prompts on their way through the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.deadline import Deadline
from engines.errors import InvalidInput, MllmUnavailable
from engines.events import (
    Accepted,
    DecisionMade,
    Done,
    Event,
    HeatmapReady,
    MaskDrafted,
    MaskReady,
    MaskType,
    ReasoningDelta,
    Usage,
)
from engines.images import PreparedImage
from engines.mllm.image import MllmImage
from engines.mllm.interface import Hear
from engines.mllm.results import NOTHING_KNOWN, KnownStates, ReasoningEnd
from engines.pipeline import Pipeline
from engines.request import SegmentRequest
from engines.vision import masks
from engines.vision.visual_prompt import Point, VisualPrompt
from tests.engines.test_pipeline import nothing_left_running, of, opened, picture, run
from tests.stand_ins import FaultyVision, ScriptedMllm

SENTENCES = ("The mug is here. ", "The box is before it. ", "So it is hidden. ")


@dataclass
class PacedMllm(ScriptedMllm):
    """Writes a sentence for every `turn` it is given, and remembers what it was to concentrate on."""

    words: tuple[str, ...] = SENTENCES
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    reasonings: list[tuple[str, MaskType, int]] = field(default_factory=list)

    async def reason(
        self,
        image: MllmImage,
        prompt: str,
        budget: int,
        *,
        objects: int | None = None,
        hear: Hear | None = None,
        timeout: float,
    ) -> AsyncGenerator[ReasoningDelta | ReasoningEnd, None]:
        for number, word in enumerate(self.words):
            await self.turn.acquire()
            yield ReasoningDelta(word, 5 * number + 5)
        yield ReasoningEnd("".join(self.words), 20, 5 * len(self.words), closed=True)

    async def concentrate(
        self,
        image: MllmImage,
        prompt: str,
        reasoning: str,
        mask_types: Sequence[MaskType],
        objects: int,
        *,
        known: KnownStates = NOTHING_KNOWN,
        timeout: float,
    ) -> dict[MaskType, NDArray[np.float32]]:
        self.reasonings.append((reasoning, mask_types[0], objects))
        return await super().concentrate(
            image, prompt, reasoning, mask_types, objects, known=known, timeout=timeout
        )


async def run_paced(
    pipeline: Pipeline, mllm: PacedMllm, request: SegmentRequest, image: PreparedImage | None = None
) -> list[Event]:
    """The request's events; the reasoning goes on by a sentence whenever a draft has come."""
    shown, events = image or picture(), []

    async def load() -> PreparedImage:
        return shown

    async with aclosing(pipeline.segment(request, load, Deadline.after(60))) as stream:
        async for event in stream:
            events.append(event)
            if isinstance(event, MaskDrafted) and event.object == 0:
                mllm.turn.release()
    return events


async def test_drafts_come_while_the_reasoning_runs(vision: FaultyVision) -> None:
    mllm = PacedMllm()
    async with opened(mllm, vision) as pipeline, nothing_left_running(mllm):
        events = await run_paced(pipeline, mllm, SegmentRequest("the mug", mask_type="modal", drafts=3))
    assert [type(event) for event in events] == [
        Accepted, MaskDrafted, ReasoningDelta, MaskDrafted, ReasoningDelta, MaskDrafted, ReasoningDelta,
        DecisionMade, MaskReady, Done,
    ]  # fmt: skip
    drafts, [mask], [done] = of(MaskDrafted, events), of(MaskReady, events), of(Done, events)
    assert [(draft.number, draft.reasoning_tokens) for draft in drafts] == [(0, 0), (1, 5), (2, 10)]
    assert all(draft.rle == mask.rle for draft in drafts), "the script looks at no reasoning"
    assert [(score.number, score.iou) for score in done.drafts] == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert [reasoning for reasoning, _, _ in mllm.reasonings] == [
        "", SENTENCES[0].strip(), "".join(SENTENCES[:2]).strip(), "".join(SENTENCES)
    ]  # fmt: skip
    assert 0 < done.timings_ms["ttfd"] < done.timings_ms["ttfm"]
    assert done.timings_ms["warm"] > 0


@pytest.mark.parametrize(
    ("request_", "drawn", "scored"),
    [
        (
            SegmentRequest("mug", drafts=3, objects=2),
            ("modal", 2),
            [None] * 6,
        ),  # the model decides for amodal
        (SegmentRequest("mug", mask_type="both", drafts=3), ("modal", 1), [1.0] * 3),
        (SegmentRequest("mug", mask_type="amodal", drafts=3), ("amodal", 1), [1.0] * 3),
    ],
)
async def test_a_draft_is_scored_where_there_is_such_a_mask(
    vision: FaultyVision, request_: SegmentRequest, drawn: tuple[MaskType, int], scored: list[float | None]
) -> None:
    mllm = PacedMllm()
    async with opened(mllm, vision) as pipeline:
        events = await run_paced(pipeline, mllm, request_)
    assert mllm.reasonings[0] == ("", *drawn)
    assert [score.iou for score in of(Done, events)[0].drafts] == scored
    assert {draft.mask_type for draft in of(MaskDrafted, events)} == {drawn[0]}


class DraftlessMllm(PacedMllm):
    """Has vectors for what it has reasoned only; asked before, it fails or never answers."""

    hangs = False

    async def concentrate(
        self,
        image: MllmImage,
        prompt: str,
        reasoning: str,
        mask_types: Sequence[MaskType],
        objects: int,
        *,
        known: KnownStates = NOTHING_KNOWN,
        timeout: float,
    ) -> dict[MaskType, NDArray[np.float32]]:
        if not reasoning:
            for _ in self.words:
                self.turn.release()
            if self.hangs:
                await asyncio.Event().wait()
            raise MllmUnavailable("no state came")
        return await super().concentrate(
            image, prompt, reasoning, mask_types, objects, known=known, timeout=timeout
        )


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_first_draft_that_cannot_be_made_is_the_drafts_own_fault(
    vision: FaultyVision, hangs: bool
) -> None:
    mllm = DraftlessMllm(concentrates_apart=False)
    mllm.hangs = hangs
    async with opened(mllm, vision) as pipeline, nothing_left_running(mllm):
        events = await run_paced(pipeline, mllm, SegmentRequest("the mug", drafts=1))
    assert of(MaskDrafted, events) == []
    assert len(of(MaskReady, events)) == 1
    assert isinstance(events[-1], Done)


@pytest.mark.parametrize(("apart", "first"), [(False, "concentrate"), (True, "reason")])
async def test_one_server_is_asked_for_a_draft_first_and_two_at_once(
    vision: FaultyVision, apart: bool, first: str
) -> None:
    mllm = ScriptedMllm(concentrates_apart=apart)
    async with opened(mllm, vision) as pipeline:
        await run(pipeline, SegmentRequest("the mug", drafts=1))
    assert mllm.calls[0] == first


async def test_in_company_nobody_gets_drafts(vision: FaultyVision) -> None:
    mllm = PacedMllm()
    mllm.turn = asyncio.Semaphore(100)
    company = asyncio.Event()

    async def load() -> PreparedImage:
        await company.wait()
        return picture()

    async with (
        opened(mllm, vision) as pipeline,
        aclosing(pipeline.segment(SegmentRequest("mug"), load, Deadline.after(60))) as other,
    ):
        waiting = asyncio.ensure_future(anext(other))
        await asyncio.sleep(0)
        events = await run(pipeline, SegmentRequest("mug", drafts=8))
        company.set()
        await waiting
    assert not of(MaskDrafted, events)
    assert of(Done, events)[0].drafts == ()
    assert len(mllm.reasonings) == 1


async def test_a_client_that_leaves_while_a_draft_is_drawn(vision: FaultyVision) -> None:
    mllm = PacedMllm(hanging={"concentrate"})
    async with opened(mllm, vision) as pipeline, nothing_left_running(mllm):
        request = asyncio.create_task(run(pipeline, SegmentRequest("mug", drafts=1)))
        await mllm.reached.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request


async def test_a_draft_for_which_there_is_no_time_is_given_up(vision: FaultyVision) -> None:
    """The image is not encoded before the reasoning has ended: the draft of it does not delay the mask."""
    mllm = PacedMllm()
    vision.gate.clear()
    try:
        async with opened(mllm, vision) as pipeline, nothing_left_running(mllm), asyncio.timeout(60):
            request = asyncio.create_task(run(pipeline, SegmentRequest("mug", drafts=1)))
            while not mllm.reasonings:  # noqa: ASYNC110  # the draft's
                await asyncio.sleep(0.005)
            while len(mllm.reasonings) < 2:  # the mask's
                mllm.turn.release()
                await asyncio.sleep(0.005)
            vision.gate.set()
            events = await request
    finally:
        vision.gate.set()
    assert not of(MaskDrafted, events)
    assert of(MaskReady, events)


POINTED = VisualPrompt(points=(Point(60, 40), Point(0, 80, positive=False)))


async def test_points_alone_do_not_touch_the_language_model(vision: FaultyVision) -> None:
    mllm = ScriptedMllm()
    async with opened(mllm, vision) as pipeline:
        events = await run(pipeline, SegmentRequest(visual=POINTED, heatmap=True, drafts=2))
    assert [type(event) for event in events] == [Accepted, DecisionMade, MaskReady, Done]
    assert mllm.calls == []
    [mask] = of(MaskReady, events)
    assert (mask.object, mask.mask_type, mask.rle["size"]) == (0, "modal", [80, 120])
    assert of(DecisionMade, events) == [DecisionMade("modal", 1.0, "request", 1)]
    [done] = of(Done, events)
    assert done.usage == Usage()
    assert {"encode", "decode", "finish", "ttfm", "total"} <= done.timings_ms.keys()


async def test_points_and_words_meet_in_the_decoder(vision: FaultyVision) -> None:
    async with opened(ScriptedMllm(), vision) as pipeline:
        words, both, points = await asyncio.gather(
            run(pipeline, SegmentRequest("mug", mask_type="modal")),
            run(pipeline, SegmentRequest("mug", mask_type="modal", visual=POINTED, heatmap=True)),
            run(pipeline, SegmentRequest(visual=POINTED)),
        )
    shapes = [masks.decode(of(MaskReady, events)[0].rle) for events in (words, both, points)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not np.array_equal(shapes[one], shapes[other])
    assert of(HeatmapReady, both)


async def test_a_point_outside_the_image_is_refused_before_any_work(vision: FaultyVision) -> None:
    mllm = ScriptedMllm()
    async with opened(mllm, vision) as pipeline:
        with pytest.raises(InvalidInput, match=r"points\.0: \(121, 3\) is outside the image, 120 × 80"):
            await run(pipeline, SegmentRequest("mug", visual=VisualPrompt(points=(Point(121, 3),))))
    assert mllm.calls == []
    assert vision.encodes == 0
