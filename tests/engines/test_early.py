"""Masks decoded before the text of their answer is there: the same masks, each decoded once, and nothing left over."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from engines.early import EarlyDecoder
from engines.events import Done, MaskReady, MaskType
from engines.mllm.interface import Vector
from engines.mllm.results import Written
from engines.request import MaskChoice, SegmentRequest
from engines.vision.runtimes.base import Decoded
from tests.engines.test_pipeline import of, opened, run
from tests.stand_ins import FaultyVision, ScriptedMllm

NOTHING = Decoded(np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32), 0.0)


def tapped(objects: int, *, overheard: bool) -> ScriptedMllm:
    return ScriptedMllm(
        written=Written("amodal", objects), overheard=overheard, concentrates_apart=not overheard
    )


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("mask_type", ["auto", "both"])
async def test_masks_are_the_same_and_each_is_decoded_once(
    vision: FaultyVision, mask_type: MaskChoice, objects: int
) -> None:
    request, found = SegmentRequest("the mugs", mask_type=mask_type), []
    for overheard in (False, True):
        vision.batches.clear()
        async with opened(tapped(objects, overheard=overheard), vision) as pipeline:
            await run(pipeline, request)  # the image is known then
            vision.batches.clear()
            events = await run(pipeline, request)
        found.append({(mask.object, mask.mask_type): mask.area for mask in of(MaskReady, events)})
        assert sum(vision.batches) == objects * (2 if mask_type == "both" else 1)
        [done] = of(Done, events)
        assert ("early" in done.timings_ms) == overheard
    assert found[1] == pytest.approx(found[0], abs=20)


async def test_what_is_not_wanted_is_not_decoded_early(vision: FaultyVision) -> None:
    mllm = tapped(1, overheard=True)
    async with opened(mllm, vision) as pipeline:
        await run(pipeline, SegmentRequest("the mug"))
        events = await run(pipeline, SegmentRequest("the mug", mask_type="modal"))
    [done] = of(Done, events)
    assert "early" not in done.timings_ms


@pytest.mark.parametrize("objects", [None, 1])
async def test_for_a_type_that_is_named_each_is_decoded_once_and_no_more_than_are_wanted(
    vision: FaultyVision, objects: int | None
) -> None:
    mllm = tapped(3, overheard=True)
    async with opened(mllm, vision) as pipeline:
        await run(pipeline, SegmentRequest("the mugs"))
        vision.batches.clear()
        events = await run(pipeline, SegmentRequest("the mugs", mask_type="amodal", objects=objects))
    [done] = of(Done, events)
    assert "early" in done.timings_ms
    assert len(of(MaskReady, events)) == (objects or 3)
    assert sum(vision.batches) == (objects or 3)


async def test_in_company_vectors_are_left_to_their_batch(vision: FaultyVision) -> None:
    mllm = tapped(1, overheard=True)
    async with opened(mllm, vision) as pipeline:
        await run(pipeline, SegmentRequest("the mug"))
        both = await asyncio.gather(*(run(pipeline, SegmentRequest("the mug")) for _ in range(2)))
    assert not any("early" in done.timings_ms for events in both for done in of(Done, events))


async def test_what_nobody_takes_is_given_up_and_what_comes_later_is_not_begun() -> None:
    begun = asyncio.Event()

    async def decode(mask_type: MaskType, vector: Vector) -> Decoded:
        begun.set()
        await asyncio.Event().wait()
        return NOTHING

    async with EarlyDecoder(decode, lambda mask_type: mask_type == "modal") as early:
        early.hear("amodal", np.zeros(2, np.float32))
        assert not early.begun
        early.hear("modal", np.ones(2, np.float32))
        await begun.wait()
    [task] = early.begun.values()
    assert task.cancelled()
    early.hear("modal", np.zeros(2, np.float32))
    assert len(early.begun) == 1
