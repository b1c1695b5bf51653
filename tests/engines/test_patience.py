"""Patient requests in the vision engine's queues: others go first, but not for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Literal

import pytest
import torch
from PIL import Image

from engines.assembly import PipelineLimits, open_pipeline
from engines.batching import PATIENT_TURN, BatchLimits
from engines.bundles.imports.converseg import ANSWER as READING
from engines.bundles.imports.egm import ANSWER as BOXES
from engines.deadline import Deadline
from engines.events import Done, MaskReady
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.answer import AnswerFormat
from engines.mllm.image import MllmImageConfig
from engines.pipeline import Pipeline
from engines.request import SegmentRequest
from engines.vision.config import VisionConfig
from engines.vision.model import VisionModel
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import Decoded, DecodeItem, Embedding
from engines.vision.runtimes.torch_cpu import TorchRuntime
from tests.stand_ins import TINY_SAM2, TINY_VISION, FaultyVision, ScriptedMllm

Stage = Literal["encode", "decode"]
ONE_BY_ONE = BatchLimits(max_size=1, max_wait=0)
PREPARER = ImagePreparer(MllmImageConfig(), TINY_VISION.image_size)
MANY = 20


class Recorder(FaultyVision):
    """Notes in which order pictures, known by their heights, are encoded and decoded; can be held at either."""

    def __init__(self, path: Path, config: VisionConfig) -> None:
        torch.manual_seed(0)
        VisionModel.from_config(config).save(path)
        super().__init__(TorchRuntime(path))
        self.order: dict[Stage, list[int]] = {"encode": [], "decode": []}
        self._gates: dict[Stage, threading.Event] = {"encode": threading.Event(), "decode": threading.Event()}
        self.release()

    @contextmanager
    def held(self, stage: Stage) -> Iterator[None]:
        self._gates[stage].clear()
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        for gate in self._gates.values():
            gate.set()

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        self._pass("encode", images)
        return super().encode(images)

    def decode(self, items: Sequence[DecodeItem]) -> list[Decoded]:
        self._pass("decode", items)
        return super().decode(items)

    def _pass(self, stage: Stage, items: Sequence[Prepared] | Sequence[DecodeItem]) -> None:
        self.order[stage] += [item.size[0] for item in items]
        assert self._gates[stage].wait(120), "the test never opened the gate"


def picture(height: int) -> PreparedImage:
    return PREPARER.prepare(Image.new("RGB", (TINY_VISION.image_size, height)), f"sha256:{height}")


async def ask(pipeline: Pipeline, height: int, *, patient: bool = False) -> None:
    async def load() -> PreparedImage:
        return picture(height)

    request = SegmentRequest("the mug", mask_type="modal", objects=1, patient=patient)
    async with aclosing(pipeline.segment(request, load, Deadline.after(120))) as stream:
        events = [event async for event in stream]
    assert isinstance(events[-1], Done)
    assert [event.mask_type for event in events if isinstance(event, MaskReady)] == ["modal"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # a queue tells nobody of its length
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("answer", "config", "stage"),
    [
        (AnswerFormat(), TINY_VISION, "encode"),
        (AnswerFormat(), TINY_VISION, "decode"),
        (BOXES, TINY_VISION.model_copy(update={"heatmap": None}), "decode"),
        (READING, TINY_SAM2, "decode"),
    ],
    ids=["encode", "vectors", "boxes", "sentences"],
)
async def test_others_overtake_patient_requests_which_never_starve(
    tmp_path: Path, answer: AnswerFormat, config: VisionConfig, stage: Stage
) -> None:
    vision = Recorder(tmp_path, config)
    mllm = ScriptedMllm(found={"": [(0.1, 0.2, 0.5, 0.9)]})
    limits = PipelineLimits(encode=ONE_BY_ONE, decode=ONE_BY_ONE)
    patient, urgent = range(2, 2 + MANY), range(2 + MANY, 2 + 2 * MANY)
    async with open_pipeline(answer, 0.0, mllm, vision, limits) as pipeline, asyncio.TaskGroup() as group:
        queue = pipeline._embeddings._encoder if stage == "encode" else pipeline._decoder
        with vision.held(stage):
            group.create_task(ask(pipeline, 1))
            await until(lambda: vision.order[stage] == [1])
            for height in patient:
                group.create_task(ask(pipeline, height, patient=True))
            await until(lambda: queue.pending == MANY)
            for height in urgent:
                group.create_task(ask(pipeline, height))
            await until(lambda: queue.pending == 2 * MANY)

    order = vision.order[stage][1:]
    assert sorted(order) == [*patient, *urgent]
    places = [place for place, height in enumerate(order) if height in patient]
    assert places[:2] == [PATIENT_TURN - 1, 2 * PATIENT_TURN - 1], "one turn in so many, while others wait"
    assert places[2:] == list(range(MANY + 2, 2 * MANY)), "then all the rest"


@pytest.mark.parametrize("uploaded", [False, True])
async def test_an_encode_is_patient_only_until_somebody_in_a_hurry_waits_for_it(
    tmp_path: Path, uploaded: bool
) -> None:
    vision = Recorder(tmp_path, TINY_VISION)
    limits = PipelineLimits(encode=ONE_BY_ONE)
    async with (
        open_pipeline(AnswerFormat(), 0.0, ScriptedMllm(), vision, limits) as pipeline,
        asyncio.TaskGroup() as group,
    ):
        queue = pipeline._embeddings._encoder
        with vision.held("encode"):
            group.create_task(ask(pipeline, 1))
            await until(lambda: vision.order["encode"] == [1])
            for height in (2, 3, 4):
                group.create_task(
                    pipeline.encode(picture(height)) if uploaded else ask(pipeline, height, patient=True)
                )
            await until(lambda: queue.pending == 3)
            group.create_task(ask(pipeline, 5))
            group.create_task(ask(pipeline, 4))
            await until(lambda: queue.pending == 4 and "sha256:4" not in pipeline._embeddings._patient)
    assert sorted(vision.order["encode"][1:3]) == [4, 5]
    assert vision.order["encode"][3:] == [2, 3]
    assert not pipeline._embeddings._patient
