"""The pipeline of a model that answers in boxes, with a scripted language model and a real, tiny SAM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

from engines.assembly import open_pipeline
from engines.box_pipeline import NO_BOX, NO_HEATMAP
from engines.bundles.imports.egm import ANSWER
from engines.deadline import Deadline
from engines.embeddings import rounded
from engines.errors import MllmUnavailable
from engines.events import (
    Accepted,
    DecisionMade,
    Done,
    Event,
    HeatmapReady,
    HiddenReady,
    MaskReady,
    ReasoningDelta,
)
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.image import MllmImageConfig
from engines.pipeline import Pipeline
from engines.request import SegmentRequest
from engines.vision.masks import finish
from engines.vision.model import VisionModel
from engines.vision.runtimes.base import DecodeItem
from engines.vision.runtimes.torch_cpu import TorchRuntime
from engines.vision.visual_prompt import Point, VisualPrompt
from tests.stand_ins import TINY_VISION, ScriptedMllm

Kind = TypeVar("Kind")
VISIBLE, COMPLETE = (0.1, 0.2, 0.5, 0.9), (0.1, 0.2, 0.8, 0.9)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> TorchRuntime:
    """A SAM without a heatmap head."""
    path = tmp_path_factory.mktemp("vision")
    torch.manual_seed(0)
    VisionModel.from_config(TINY_VISION.model_copy(update={"heatmap": None})).save(path)
    return TorchRuntime(path)


@pytest.fixture
def mllm() -> ScriptedMllm:
    return ScriptedMllm(found={"visible part": [VISIBLE], "complete shape": [COMPLETE]})


@pytest.fixture(scope="module")
def image() -> PreparedImage:
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((120, 80), Image.Resampling.BICUBIC)
    return ImagePreparer(MllmImageConfig(), TINY_VISION.image_size).prepare(picture, "sha256:0")


@asynccontextmanager
async def opened(mllm: ScriptedMllm, runtime: TorchRuntime) -> AsyncIterator[Pipeline]:
    async with open_pipeline(ANSWER, 0.0, mllm, runtime) as pipeline:
        yield pipeline


async def run(
    mllm: ScriptedMllm, runtime: TorchRuntime, image: PreparedImage, request: SegmentRequest
) -> list[Event]:
    async def load() -> PreparedImage:
        return image

    async with (
        opened(mllm, runtime) as pipeline,
        aclosing(pipeline.segment(request, load, Deadline.after(30))) as events,
    ):
        return [event async for event in events]


def of(kind: type[Kind], events: Sequence[Event]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


def expected(runtime: TorchRuntime, image: PreparedImage, prompt: VisualPrompt) -> object:
    [embedding] = rounded(runtime.encode)([image.vision])
    sparse = prompt.sparse(image.vision.original, image.vision.size)
    [decoded] = runtime.decode([DecodeItem(embedding, None, image.vision.size, sparse)])
    return finish(decoded.mask_logits, image.vision.size, image.vision.original).rle


async def test_the_decision_chooses_the_question(
    mllm: ScriptedMllm, runtime: TorchRuntime, image: PreparedImage
) -> None:
    events = await run(mllm, runtime, image, SegmentRequest("the whole mug"))
    assert [type(event) for event in events] == [
        Accepted,
        *[ReasoningDelta] * 3,
        DecisionMade,
        MaskReady,
        Done,
    ]
    [mask] = of(MaskReady, events)
    assert mask.mask_type == "amodal"
    assert mask.rle == expected(runtime, image, VisualPrompt((12, 16, 96, 72)))
    assert "warm" not in mllm.calls
    assert "concentrate" not in mllm.calls


async def test_both_masks_have_boxes_of_their_own(
    mllm: ScriptedMllm, runtime: TorchRuntime, image: PreparedImage
) -> None:
    events = await run(mllm, runtime, image, SegmentRequest("the mug", mask_type="both", objects=1))
    modal, amodal = of(MaskReady, events)
    assert modal.rle == expected(runtime, image, VisualPrompt((12, 16, 60, 72)))
    assert amodal.rle == expected(runtime, image, VisualPrompt((12, 16, 96, 72)))
    assert modal.rle != amodal.rle
    assert len(of(HiddenReady, events)) == 1
    assert "".join(event.text for event in of(ReasoningDelta, events)) == "".join(mllm.words)


async def test_boxes_of_both_types_are_put_together_by_what_they_cover(
    runtime: TorchRuntime, image: PreparedImage
) -> None:
    left, right = (0.0, 0.0, 0.4, 0.9), (0.5, 0.0, 0.9, 0.9)
    crossed = [(0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 0.4, 1.0)]
    mllm = ScriptedMllm(found={"visible part": [left, right], "complete shape": crossed})
    events = await run(mllm, runtime, image, SegmentRequest("the mugs", mask_type="both", heatmap=True))
    masks = {(mask.object, mask.mask_type): mask.rle for mask in of(MaskReady, events)}
    height, width = image.vision.original
    assert masks[0, "amodal"] == expected(runtime, image, VisualPrompt((0, 0, 0.4 * width, height)))
    assert masks[1, "amodal"] == expected(runtime, image, VisualPrompt((0.5 * width, 0, width, height)))
    assert len(of(HiddenReady, events)) == 2
    assert of(HeatmapReady, events) == [], "a box is none"


@pytest.mark.parametrize("visual", [None, VisualPrompt((1, 2, 30, 40))])
async def test_both_boxes_of_one_object_are_its_own_wherever_they_are(
    runtime: TorchRuntime, image: PreparedImage, visual: VisualPrompt | None
) -> None:
    apart = {"visible part": [(0.0, 0.0, 0.4, 0.9)], "complete shape": [(0.5, 0.0, 0.9, 0.9)]}
    request = SegmentRequest(
        "the mug", mask_type="both", objects=1 if visual is None else None, visual=visual
    )
    events = await run(ScriptedMllm(found=apart), runtime, image, request)
    assert of(DecisionMade, events)[0].objects == 1
    assert [(mask.object, mask.mask_type) for mask in of(MaskReady, events)] == [(0, "modal"), (0, "amodal")]


async def test_a_box_of_the_request_means_one_object(runtime: TorchRuntime, image: PreparedImage) -> None:
    mllm = ScriptedMllm(found={"visible part": [(0.0, 0.0, 0.4, 0.9), (0.5, 0.0, 0.9, 0.9)]})
    request = SegmentRequest("the mugs", mask_type="modal", visual=VisualPrompt((1, 2, 30, 40)))
    events = await run(mllm, runtime, image, request)
    assert of(DecisionMade, events)[0].objects == 1
    [mask] = of(MaskReady, events)
    assert mask.rle == expected(runtime, image, VisualPrompt((1, 2, 30, 40)))


async def test_no_box_means_no_object(runtime: TorchRuntime, image: PreparedImage) -> None:
    events = await run(ScriptedMllm(), runtime, image, SegmentRequest("the unicorn"))
    [decision] = of(DecisionMade, events)
    assert (decision.objects, decision.warnings) == (0, ())
    assert of(MaskReady, events) == []
    events = await run(ScriptedMllm(), runtime, image, SegmentRequest("the unicorn", objects=2, heatmap=True))
    assert of(DecisionMade, events)[0].warnings == (NO_BOX, NO_HEATMAP)


async def test_the_requests_own_points_and_box_count(
    mllm: ScriptedMllm, runtime: TorchRuntime, image: PreparedImage
) -> None:
    points = (Point(30, 40),)
    request = SegmentRequest("the mug", mask_type="modal", visual=VisualPrompt(points=points))
    [mask] = of(MaskReady, await run(mllm, runtime, image, request))
    assert mask.rle == expected(runtime, image, VisualPrompt((12, 16, 60, 72), points))
    request = SegmentRequest("the mug", mask_type="modal", visual=VisualPrompt((1, 2, 30, 40)))
    [mask] = of(MaskReady, await run(mllm, runtime, image, request))
    assert mask.rle == expected(runtime, image, VisualPrompt((1, 2, 30, 40)))


@pytest.mark.parametrize("part", ["decide", "reason", "boxes"])
async def test_a_fault_of_the_language_model_is_the_requests(
    mllm: ScriptedMllm, runtime: TorchRuntime, image: PreparedImage, part: str
) -> None:
    mllm.failing = {part}
    with pytest.raises(MllmUnavailable, match=f"{part} failed"):
        await run(mllm, runtime, image, SegmentRequest("the mug", mask_type="both"))
    assert mllm.running == 0
