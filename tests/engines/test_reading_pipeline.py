"""The pipeline of a model that only reads the prompt, with a scripted language model and a real, tiny SAM 2."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

from engines.assembly import open_pipeline
from engines.bundles.imports.converseg import ANSWER
from engines.deadline import Deadline
from engines.errors import InvalidInput, MllmUnavailable
from engines.events import DecisionMade, Done, Event, HeatmapReady, MaskReady
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.image import MllmImageConfig
from engines.reading_pipeline import NO_DRAFTS, NO_HEATMAP
from engines.request import ONLY_MODAL, SegmentRequest
from engines.vision.masks import finish
from engines.vision.model import VisionModel
from engines.vision.runtimes.base import DecodeItem, Sentence
from engines.vision.runtimes.torch_cpu import TorchRuntime
from engines.vision.visual_prompt import VisualPrompt
from tests.stand_ins import TINY_SAM2, ScriptedMllm

Kind = TypeVar("Kind")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> TorchRuntime:
    path = tmp_path_factory.mktemp("vision")
    torch.manual_seed(0)
    VisionModel.from_config(TINY_SAM2).save(path)
    return TorchRuntime(path)


@pytest.fixture(scope="module")
def image() -> PreparedImage:
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((120, 80), Image.Resampling.BICUBIC)
    return ImagePreparer(MllmImageConfig(), TINY_SAM2.image_size, TINY_SAM2.fit).prepare(picture, "sha256:0")


async def run(
    runtime: TorchRuntime, image: PreparedImage, request: SegmentRequest, mllm: ScriptedMllm | None = None
) -> list[Event]:
    async def load() -> PreparedImage:
        return image

    async with (
        open_pipeline(ANSWER, 0.0, mllm or ScriptedMllm(), runtime) as pipeline,
        aclosing(pipeline.segment(request, load, Deadline.after(60))) as events,
    ):
        return [event async for event in events]


def of(kind: type[Kind], events: Sequence[Event]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


async def test_one_mask_comes_of_the_prompts_states(runtime: TorchRuntime, image: PreparedImage) -> None:
    mllm = ScriptedMllm()
    events = await run(runtime, image, SegmentRequest("the red mug"), mllm)
    assert mllm.calls == ["read"]
    states = await mllm.read(image.mllm, "the red mug", timeout=1)
    [embedding] = runtime.encode([image.vision])
    item = DecodeItem(embedding, None, image.vision.size, sentence=Sentence(states.text, states.end))
    [decoded] = runtime.decode([item])
    vision = image.vision
    expected = finish(decoded.mask_logits, vision.size, vision.original, corner=vision.corner)
    [mask] = of(MaskReady, events)
    assert mask.mask_type == "modal"
    assert mask.score == pytest.approx(decoded.iou, abs=1e-2)
    assert abs(mask.area - expected.area) <= 0.02 * 120 * 80  # the pipeline's embedding went through float16
    assert 0 < mask.area < 120 * 80
    [done] = of(Done, events)
    assert (done.usage.prompt_tokens, done.usage.reasoning_tokens) == (30, 0)


async def test_what_it_cannot_do_is_told(runtime: TorchRuntime, image: PreparedImage) -> None:
    events = await run(runtime, image, SegmentRequest("the red mug", heatmap=True, drafts=2))
    [decision] = of(DecisionMade, events)
    assert (decision.mask_type, decision.source, decision.objects) == ("modal", "grounder", 1)
    assert decision.warnings == (ONLY_MODAL, NO_HEATMAP, NO_DRAFTS)
    assert not of(HeatmapReady, events)


async def test_who_asks_for_modal_is_not_warned(runtime: TorchRuntime, image: PreparedImage) -> None:
    [decision] = of(
        DecisionMade, await run(runtime, image, SegmentRequest("it", mask_type="modal", objects=1))
    )
    assert (decision.source, decision.warnings) == ("request", ())


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        ({"mask_type": "amodal"}, "^mask_type: amodal is not to be had"),
        ({"mask_type": "both"}, "^mask_type: both is not to be had"),
        ({"objects": 2}, "^objects: "),
        ({"visual": VisualPrompt(box=(1, 1, 20, 20))}, "^prompt: "),
    ],
)
async def test_anything_else_is_refused_by_name(
    runtime: TorchRuntime, asked: dict[str, Any], fault: str
) -> None:
    async def load() -> PreparedImage:
        raise AssertionError("it is refused before its image is read")

    async with open_pipeline(ANSWER, 0.0, ScriptedMllm(), runtime) as pipeline:
        request = SegmentRequest("the red mug", **asked)
        async with aclosing(pipeline.segment(request, load, Deadline.after(60))) as events:
            with pytest.raises(InvalidInput, match=fault):
                await anext(events)


async def test_points_alone_need_no_language_model(runtime: TorchRuntime, image: PreparedImage) -> None:
    mllm = ScriptedMllm()
    events = await run(runtime, image, SegmentRequest(visual=VisualPrompt(box=(10, 10, 60, 60))), mllm)
    assert (len(of(MaskReady, events)), mllm.calls) == (1, [])


async def test_a_server_that_is_away_is_told(runtime: TorchRuntime, image: PreparedImage) -> None:
    with pytest.raises(MllmUnavailable):
        await run(runtime, image, SegmentRequest("the red mug"), ScriptedMllm(failing={"read"}))
