"""The pipeline with a scripted language model and a real, tiny vision model: events, faults, cancellation."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from engines.assembly import PipelineLimits, open_pipeline
from engines.deadline import Deadline
from engines.draft_budget import DraftLimits
from engines.errors import (
    DeadlineExceeded,
    EngineError,
    ImageRejected,
    InvalidInput,
    MllmUnavailable,
    VisionFailed,
)
from engines.events import (
    Accepted,
    DecisionMade,
    Done,
    Event,
    HeatmapReady,
    HiddenReady,
    MaskReady,
    ReasoningDelta,
    Usage,
)
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.answer import AnswerFormat, AnswerTokens, DecisionQuestion
from engines.mllm.image import MllmImageConfig
from engines.pipeline import NO_AMODAL, Pipeline
from engines.request import MaskChoice, SegmentRequest
from engines.vision import masks
from tests.stand_ins import TINY_VISION, FaultyVision, ScriptedMllm

Kind = TypeVar("Kind")
PREPARER = ImagePreparer(MllmImageConfig(), TINY_VISION.image_size)


def picture(seed: int = 0, size: tuple[int, int] = (120, 80)) -> PreparedImage:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return PREPARER.prepare(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), f"sha256:{seed}")


@asynccontextmanager
async def opened(mllm: ScriptedMllm, vision: FaultyVision) -> AsyncIterator[Pipeline]:
    """Drafts may cost what they will: in no time, next to which they would be weighed, the script is at its end."""
    limits = PipelineLimits(drafts=DraftLimits(share=math.inf))
    async with open_pipeline(AnswerFormat(), 0.0, mllm, vision, limits) as pipeline:
        yield pipeline


async def run(
    pipeline: Pipeline, request: SegmentRequest, image: PreparedImage | None = None, seconds: float = 30
) -> list[Event]:
    shown = image or picture()

    async def load() -> PreparedImage:
        return shown

    async with aclosing(pipeline.segment(request, load, Deadline.after(seconds))) as events:
        return [event async for event in events]


async def unread() -> PreparedImage:
    raise AssertionError("this image is not to be read")


def of(kind: type[Kind], events: Sequence[Event]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


@asynccontextmanager
async def nothing_left_running(mllm: ScriptedMllm) -> AsyncIterator[None]:
    """No task outlives the block, but for a batch that a thread has begun: that one ends by itself."""
    before = asyncio.all_tasks()
    yield
    assert mllm.running == 0
    left = asyncio.all_tasks() - before
    assert all("MicroBatcher._drain" in repr(task) for task in left)
    async with asyncio.timeout(60):
        await asyncio.gather(*left)


async def test_events_come_in_order(vision: FaultyVision) -> None:
    mllm = ScriptedMllm()
    async with opened(mllm, vision) as pipeline:
        events = await run(pipeline, SegmentRequest("the whole mug", heatmap=True))
    kinds = [type(event) for event in events]
    assert kinds == [
        Accepted, ReasoningDelta, ReasoningDelta, ReasoningDelta, DecisionMade, HeatmapReady, MaskReady, Done,
    ]  # fmt: skip
    assert events[0] == Accepted("sha256:0", 120, 80)
    assert events[4] == DecisionMade("amodal", 0.9, "model", 1)
    [mask] = of(MaskReady, events)
    assert (mask.object, mask.mask_type, mask.rle["size"]) == (0, "amodal", [80, 120])
    assert masks.decode(mask.rle).sum() == mask.area
    [heatmap] = of(HeatmapReady, events)
    assert heatmap.probabilities.shape == (22, 32), "the valid part of 32 × 32 cells"
    assert 0 <= heatmap.probabilities.min() < heatmap.probabilities.max() <= 1
    [done] = of(Done, events)
    assert done.usage == Usage(prompt_tokens=20, reasoning_tokens=3)
    stages = {
        "queue", "image", "encode", "reason", "decide", "warm", "foresee", "concentrate", "decode", "finish",
    }  # fmt: skip
    assert done.timings_ms.keys() == stages | {"total", "ttft", "ttfm"}
    assert done.timings_ms["total"] >= max(done.timings_ms[stage] for stage in stages)
    assert sorted(mllm.calls) == ["concentrate", "decide", "reason", "warm"]


async def test_both_masks_take_one_reasoning_and_one_batch(vision: FaultyVision) -> None:
    mllm = ScriptedMllm(prompt_count=2)
    async with opened(mllm, vision) as pipeline:
        events = await run(pipeline, SegmentRequest("both mugs", mask_type="both"))
    assert sorted(mllm.calls) == ["concentrate", "concentrate", "decide", "reason", "warm"]
    assert vision.batches == [4]
    ready = of(MaskReady, events)
    assert [(mask.object, mask.mask_type) for mask in ready] == [
        (0, "modal"), (0, "amodal"), (1, "modal"), (1, "amodal"),
    ]  # fmt: skip
    hidden = of(HiddenReady, events)
    assert [part.object for part in hidden] == [0, 1]
    for part in hidden:
        modal, amodal = (masks.decode(mask.rle) for mask in ready if mask.object == part.object)
        assert np.array_equal(masks.decode(part.rle), amodal & ~modal)
        assert part.fraction == pytest.approx((amodal & ~modal).sum() / amodal.sum())
    [decision] = of(DecisionMade, events)
    assert (decision.mask_type, decision.source, decision.objects) == ("amodal", "model", 2)


async def test_an_object_that_is_not_there_gets_no_mask(vision: FaultyVision) -> None:
    async with opened(ScriptedMllm(prompt_count=0), vision) as pipeline:
        events = await run(pipeline, SegmentRequest("the elephant", heatmap=True))
    assert not of(MaskReady, events)
    assert not of(HeatmapReady, events)
    assert of(DecisionMade, events)[0].objects == 0
    assert isinstance(events[-1], Done)
    assert vision.batches == []


async def test_an_unencoded_image_does_not_hold_up_an_answer_without_masks(vision: FaultyVision) -> None:
    vision.gate.clear()
    try:
        async with opened(ScriptedMllm(prompt_count=0), vision) as pipeline:
            events = await run(pipeline, SegmentRequest("the elephant"), seconds=60)
            vision.gate.set()
    finally:
        vision.gate.set()
    assert isinstance(events[-1], Done)


async def test_the_request_may_say_everything(vision: FaultyVision) -> None:
    mllm = ScriptedMllm()
    request = SegmentRequest("mugs", mask_type="modal", objects=3, reasoning="none")
    async with opened(mllm, vision) as pipeline:
        events = await run(pipeline, request)
    assert mllm.calls == ["decide", "concentrate"], "nothing to reason about and nothing to warm"
    assert not of(ReasoningDelta, events)
    assert [(mask.object, mask.mask_type) for mask in of(MaskReady, events)] == [
        (0, "modal"), (1, "modal"), (2, "modal"),
    ]  # fmt: skip
    assert of(DecisionMade, events) == [DecisionMade("modal", 1.0, "request", 3)]
    assert "ttft" not in of(Done, events)[0].timings_ms


async def test_the_reasoning_budget_reaches_the_model(vision: FaultyVision) -> None:
    async with opened(ScriptedMllm(), vision) as pipeline:
        events = await run(pipeline, SegmentRequest("mug", max_reasoning_tokens=2))
    assert [delta.text for delta in of(ReasoningDelta, events)] == ["The mug ", "is behind "]
    assert of(Done, events)[0].usage.reasoning_tokens == 2


async def test_one_image_is_encoded_once(vision: FaultyVision) -> None:
    async with opened(ScriptedMllm(), vision) as pipeline:
        await asyncio.gather(*(run(pipeline, SegmentRequest("mug")) for _ in range(6)))
        await run(pipeline, SegmentRequest("mug"))
        assert vision.encodes == 1
        await run(pipeline, SegmentRequest("mug"), picture(seed=1))
        assert vision.encodes == 2


async def test_requests_meet_in_the_decoder(vision: FaultyVision) -> None:
    async with opened(ScriptedMllm(), vision) as pipeline:
        await run(pipeline, SegmentRequest("mug"))
        vision.batches.clear()
        alone = of(MaskReady, await run(pipeline, SegmentRequest("mug")))
        many = await asyncio.gather(*(run(pipeline, SegmentRequest("mug")) for _ in range(8)))
    assert max(vision.batches) > 1
    for events in many:
        [mask] = of(MaskReady, events)
        assert (mask.rle, mask.area) == (alone[0].rle, alone[0].area)


@pytest.mark.parametrize("stage", ["reason", "decide", "warm", "concentrate"])
async def test_a_failing_language_model_fails_the_request(vision: FaultyVision, stage: str) -> None:
    mllm = ScriptedMllm(failing={stage})
    async with opened(mllm, vision) as pipeline, nothing_left_running(mllm):
        with pytest.raises(MllmUnavailable, match=f"{stage} failed") as caught:
            await run(pipeline, SegmentRequest("mug", mask_type="both"))
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("stage", ["encode", "decode"])
async def test_a_failing_vision_runtime_fails_the_request_only(vision: FaultyVision, stage: str) -> None:
    mllm = ScriptedMllm()
    async with opened(mllm, vision) as pipeline:
        vision.failing = {stage}
        with pytest.raises(VisionFailed, match=f"{stage} failed"):
            await run(pipeline, SegmentRequest("mug"))
        vision.failing = set()
        assert of(MaskReady, await run(pipeline, SegmentRequest("mug")))
    assert mllm.running == 0


async def test_an_encode_that_fails_stops_the_reasoning_at_once(vision: FaultyVision) -> None:
    mllm = ScriptedMllm(hanging={"reason"})
    vision.failing = {"encode"}
    async with opened(mllm, vision) as pipeline:
        with pytest.raises(VisionFailed):
            await run(pipeline, SegmentRequest("mug"), seconds=60)
    assert mllm.running == 0


async def test_an_image_that_cannot_be_used_is_the_callers_fault(vision: FaultyVision) -> None:
    async def load() -> PreparedImage:
        raise ImageRejected("truncated", "the image is truncated")

    async with opened(ScriptedMllm(), vision) as pipeline:
        events = pipeline.segment(SegmentRequest("mug"), load, Deadline.after(5))
        with pytest.raises(ImageRejected):
            await anext(events)


@pytest.mark.parametrize("stage", ["reason", "decide", "warm", "concentrate"])
async def test_a_missed_deadline_stops_the_work(vision: FaultyVision, stage: str) -> None:
    mllm = ScriptedMllm(hanging={stage})
    async with opened(mllm, vision) as pipeline, nothing_left_running(mllm):
        with pytest.raises(DeadlineExceeded, match="200 ms"):
            await run(pipeline, SegmentRequest("mug"), seconds=0.2)


async def test_a_deadline_reaches_into_the_vision_runtime(vision: FaultyVision) -> None:
    vision.gate.clear()
    mllm = ScriptedMllm()
    try:
        async with opened(mllm, vision) as pipeline:
            async with nothing_left_running(mllm):
                with pytest.raises(DeadlineExceeded):
                    await run(pipeline, SegmentRequest("mug"), seconds=0.2)
                vision.gate.set()
            assert of(MaskReady, await run(pipeline, SegmentRequest("mug")))
    finally:
        vision.gate.set()


@pytest.mark.parametrize("stage", ["reason", "decide", "warm", "concentrate"])
async def test_a_client_that_leaves_frees_its_work(vision: FaultyVision, stage: str) -> None:
    mllm = ScriptedMllm(hanging={stage})
    async with opened(mllm, vision) as pipeline, nothing_left_running(mllm):
        request = asyncio.create_task(run(pipeline, SegmentRequest("mug")))
        await mllm.reached.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request


async def test_closing_the_generator_frees_the_work(vision: FaultyVision) -> None:
    mllm = ScriptedMllm(hanging={"decide"})

    async def load() -> PreparedImage:
        return picture()

    async with (
        opened(mllm, vision) as pipeline,
        nothing_left_running(mllm),
        aclosing(pipeline.segment(SegmentRequest("mug"), load, Deadline.after(20))) as events,
    ):
        async for event in events:
            if isinstance(event, ReasoningDelta):
                break


async def test_one_client_leaving_leaves_the_others_their_encode(vision: FaultyVision) -> None:
    vision.gate.clear()
    mllm = ScriptedMllm()
    try:
        async with opened(mllm, vision) as pipeline:
            first = asyncio.create_task(run(pipeline, SegmentRequest("mug")))
            second = asyncio.create_task(run(pipeline, SegmentRequest("the other mug")))
            await asyncio.sleep(0.05)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            vision.gate.set()
            assert of(MaskReady, await second)
            assert vision.encodes == 1
    finally:
        vision.gate.set()


async def test_reasoning_that_breaks_off_is_no_mask(vision: FaultyVision) -> None:
    class Mute(ScriptedMllm):
        async def reason(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
            return
            yield

    async with opened(Mute(), vision) as pipeline:
        with pytest.raises(EngineError, match="broke off"):
            await run(pipeline, SegmentRequest("mug"))


async def test_a_model_without_decision_tokens_warns_of_its_amodal_masks(vision: FaultyVision) -> None:
    tokens = AnswerTokens(modal=None, amodal=None, no_object=None)
    answer = AnswerFormat(tokens=tokens, question=DecisionQuestion())
    async with open_pipeline(answer, 0.0, ScriptedMllm(), vision, PipelineLimits()) as pipeline:
        for mask_type, warnings in (("modal", ()), ("amodal", (NO_AMODAL,)), ("both", (NO_AMODAL,))):
            events = await run(pipeline, SegmentRequest("the mug", mask_type=mask_type))  # type: ignore[arg-type]
            assert of(DecisionMade, events)[0].warnings == warnings


@pytest.mark.parametrize("mask_type", ["auto", "both"])
async def test_a_model_that_cannot_decide_is_not_asked_and_no_image_read(
    mask_type: MaskChoice, vision: FaultyVision
) -> None:
    answer = AnswerFormat(tokens=AnswerTokens(modal=None, amodal=None, no_object=None))
    mllm = ScriptedMllm()
    async with open_pipeline(answer, 0.0, mllm, vision, PipelineLimits()) as pipeline:
        request = SegmentRequest("the mug", mask_type=mask_type)
        async with aclosing(pipeline.segment(request, unread, Deadline.after(30))) as events:
            with pytest.raises(InvalidInput, match="mask_type"):
                await anext(events)
        assert not mllm.calls
        assert of(MaskReady, await run(pipeline, SegmentRequest("the mug", mask_type="modal")))
