"""From the reasoning to the vectors: answers that the model has written, decisions that it is asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engines.errors import DeadlineExceeded, MllmUnavailable
from engines.events import DecisionMade, Done, MaskReady
from engines.mllm.results import Decision, Written
from engines.request import MaskChoice, SegmentRequest
from tests.engines.test_pipeline import nothing_left_running, of, opened, run
from tests.stand_ins import FaultyVision, ScriptedMllm


class Deciding(ScriptedMllm):
    """Decides nothing before it has been asked for the vectors, if these are asked for meanwhile."""

    async def decide(self, *args: Any, **options: Any) -> Decision:
        async with asyncio.timeout(30):
            while "concentrate" not in self.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return await super().decide(*args, **options)


@pytest.mark.parametrize(("p_modal", "mask_type"), [(0.1, "amodal"), (0.9, "modal")])
async def test_the_vectors_of_either_decision_are_made_while_the_model_decides(
    vision: FaultyVision, p_modal: float, mask_type: str
) -> None:
    plain, foreseeing = ScriptedMllm(p_modal=p_modal), Deciding(p_modal=p_modal)
    async with opened(plain, vision) as pipeline:
        [expected] = of(MaskReady, await run(pipeline, SegmentRequest("the mug", objects=1)))
    async with opened(foreseeing, vision) as pipeline:
        [mask] = of(MaskReady, await run(pipeline, SegmentRequest("the mug")))
    assert foreseeing.calls.count("concentrate") == 1
    assert (mask.mask_type, mask.rle) == (mask_type, expected.rle)


async def test_foreseen_vectors_that_fail_are_asked_for_again(vision: FaultyVision) -> None:
    class FailingOnce(Deciding):
        async def concentrate(self, *args: Any, **options: Any) -> Any:
            if "decide" not in self.calls:
                self.calls.append("concentrate")
                raise MllmUnavailable("too early")
            return await super().concentrate(*args, **options)

    mllm = FailingOnce()
    async with opened(mllm, vision) as pipeline:
        events = await run(pipeline, SegmentRequest("the mug"))
    assert len(of(MaskReady, events)) == 1
    assert mllm.calls.count("concentrate") == 2


@pytest.mark.parametrize("objects", [None, 2])
@pytest.mark.parametrize("mask_type", ["auto", "both"])
async def test_of_what_the_model_has_written_one_call_gives_decision_and_vectors(
    vision: FaultyVision, mask_type: MaskChoice, objects: int | None
) -> None:
    mllm = ScriptedMllm(p_modal=0.1, written=Written("amodal", 3))
    async with opened(mllm, vision) as pipeline:
        events = await run(pipeline, SegmentRequest("the mugs", mask_type=mask_type, objects=objects))
    assert sorted(mllm.calls) == ["conclude", "reason", "warm"]
    count, types = objects or 3, ["modal", "amodal"] if mask_type == "both" else ["amodal"]
    wanted = [(number, kind) for number in range(count) for kind in types]
    assert [(mask.object, mask.mask_type) for mask in of(MaskReady, events)] == wanted
    [decision] = of(DecisionMade, events)
    assert (decision.mask_type, decision.confidence, decision.source) == ("amodal", 0.9, "model")
    [done] = of(Done, events)
    assert "decide" not in done.timings_ms
    assert done.timings_ms["concentrate"] > 0


async def test_where_nothing_follows_from_what_was_written_the_model_is_asked(vision: FaultyVision) -> None:
    mllm = ScriptedMllm(p_modal=0.6, prompt_count=1, written=Written("amodal", 2))
    async with opened(mllm, vision) as pipeline:
        events = await run(pipeline, SegmentRequest("the mug"))
    assert [mask.mask_type for mask in of(MaskReady, events)] == ["modal"]
    assert sorted(mllm.calls) == ["concentrate", "conclude", "decide", "reason", "warm"]


async def test_a_type_that_was_named_and_written_takes_the_number_that_was_written(
    vision: FaultyVision,
) -> None:
    for written, count in ((Written("amodal", 2), 2), (Written("modal", 2), 5)):
        mllm = ScriptedMllm(prompt_count=5, written=written)
        async with opened(mllm, vision) as pipeline:
            events = await run(pipeline, SegmentRequest("the mugs", mask_type="amodal"))
        assert [mask.mask_type for mask in of(MaskReady, events)] == ["amodal"] * count
        assert of(DecisionMade, events)[0].source == "request"
        assert "conclude" not in mllm.calls


async def test_what_is_written_not_to_be_there_gets_no_mask(vision: FaultyVision) -> None:
    mllm = ScriptedMllm(p_modal=0.9, written=Written("modal", 0))
    async with opened(mllm, vision) as pipeline:
        events = await run(pipeline, SegmentRequest("the elephant"))
    assert [type(event) for event in events[-2:]] == [DecisionMade, Done]
    assert of(DecisionMade, events)[0].objects == 0


async def test_in_company_no_vectors_are_made_before_the_decision(vision: FaultyVision) -> None:
    order: list[list[str]] = []

    class Watching(ScriptedMllm):
        async def decide(self, *args: Any, **options: Any) -> Decision:
            order.append(list(self.calls))
            return await super().decide(*args, **options)

    mllm = Watching()
    async with opened(mllm, vision) as pipeline:
        await asyncio.gather(*(run(pipeline, SegmentRequest(f"mug {n}")) for n in range(3)))
    assert "concentrate" not in order[0]


WRITTEN = Written("amodal", 1)


async def test_a_failing_conclusion_fails_the_request(vision: FaultyVision) -> None:
    mllm = ScriptedMllm(written=WRITTEN, failing={"conclude"})
    async with opened(mllm, vision) as pipeline, nothing_left_running(mllm):
        with pytest.raises(MllmUnavailable, match="conclude failed") as caught:
            await run(pipeline, SegmentRequest("mug", mask_type="both"))
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("stage", ["conclude", "warm"])
async def test_a_missed_deadline_stops_a_conclusion(vision: FaultyVision, stage: str) -> None:
    mllm = ScriptedMllm(written=WRITTEN, hanging={stage})
    async with opened(mllm, vision) as pipeline, nothing_left_running(mllm):
        with pytest.raises(DeadlineExceeded, match="200 ms"):
            await run(pipeline, SegmentRequest("mug"), seconds=0.2)


@pytest.mark.parametrize("stage", ["conclude", "warm"])
async def test_a_client_that_leaves_frees_its_conclusion(vision: FaultyVision, stage: str) -> None:
    mllm = ScriptedMllm(written=WRITTEN, hanging={stage})
    async with opened(mllm, vision) as pipeline, nothing_left_running(mllm):
        request = asyncio.create_task(run(pipeline, SegmentRequest("mug")))
        await mllm.reached.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
