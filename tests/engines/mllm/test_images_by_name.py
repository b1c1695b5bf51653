"""A known image costs nothing again: no vision encode, and real vLLM servers are sent its name alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from engines.assembly import open_pipeline
from engines.deadline import Deadline
from engines.events import Done
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.client import MllmClient
from engines.mllm.image import MllmImage, prepare_image
from engines.mllm.routing.role import RoutedRole
from engines.pipeline import Pipeline
from engines.request import SegmentRequest
from engines.vision.config import HeatmapConfig
from engines.vision.model import VisionModel
from engines.vision.runtimes.torch_cpu import TorchRuntime
from tests.stand_ins import TINY_VISION, FaultyVision
from tests.vllm_fixture import ServedModel

pytestmark = pytest.mark.vllm

SECONDS = 60.0
MOST_IMAGES = 400
"""More than the fixture lets a server remember."""


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC)


@dataclass
class Traffic:
    """What a client sends to one role: how often each request holds the image's data; and the statuses."""

    copies: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, routed: RoutedRole | None) -> Traffic:
        assert routed is not None
        traffic = cls()
        [server] = routed._servers
        server.role._client.event_hooks = {"request": [traffic.sent], "response": [traffic.answered]}
        return traffic

    async def sent(self, request: httpx.Request) -> None:
        body = json.loads(request.content)
        assert '"uuid"' in request.content.decode()
        self.copies.append(json.dumps(body["messages"]).count("data:image/bmp;base64,"))

    async def answered(self, response: httpx.Response) -> None:
        self.statuses.append(response.status_code)

    def clear(self) -> None:
        self.copies.clear()
        self.statuses.clear()


@pytest.fixture
async def client(served_model: ServedModel) -> AsyncIterator[MllmClient]:
    async with served_model.client() as client:
        yield client


@pytest.fixture
def vision(served_model: ServedModel, tmp_path: Path) -> FaultyVision:
    stored = json.loads((served_model.path / "config.json").read_text(encoding="utf-8"))
    width = stored.get("text_config", stored)["hidden_size"]
    torch.manual_seed(0)
    heatmap = HeatmapConfig(vector_dim=width, num_heads=2)
    VisionModel.from_config(TINY_VISION.model_copy(update={"heatmap": heatmap})).save(tmp_path)
    return FaultyVision(TorchRuntime(tmp_path))


async def segment(pipeline: Pipeline, image: PreparedImage, prompt: str) -> None:
    async def load() -> PreparedImage:
        return image

    request = SegmentRequest(prompt, objects=1, max_reasoning_tokens=4)
    async with aclosing(pipeline.segment(request, load, Deadline.after(SECONDS))) as events:
        assert isinstance([event async for event in events][-1], Done)


async def test_a_second_prompt_encodes_nothing_and_sends_no_image(
    served_model: ServedModel, client: MllmClient, vision: FaultyVision
) -> None:
    preparer = ImagePreparer(served_model.image, TINY_VISION.image_size)
    image = preparer.prepare(picture(1), "sha256:second-prompt")
    roles = [Traffic.of(client._reason), Traffic.of(client._concentrate)]
    async with open_pipeline(served_model.answer, 0.0, client, vision) as pipeline:
        await segment(pipeline, image, "the red mug")
        assert [sum(traffic.copies) for traffic in roles] == [1, 1]
        assert vision.encodes == 1
        for traffic in roles:
            traffic.clear()
        await segment(pipeline, image, "the whole box behind it")
    assert all(traffic.copies and not any(traffic.copies) for traffic in roles)
    assert all(set(traffic.statuses) == {200} for traffic in roles)
    assert vision.encodes == 1


async def test_an_image_that_others_drove_out_is_sent_once_more(
    served_model: ServedModel, client: MllmClient
) -> None:
    """Images are sent until the oldest of those that were not asked about again is gone."""
    traffic = Traffic.of(client._concentrate)
    sent: list[tuple[MllmImage, list[float]]] = []
    for number in range(MOST_IMAGES):
        image = prepare_image(picture(10 + number), f"sha256:many-{number}", served_model.image)
        sent.append((image, await vector(client, image)))
        assert traffic.copies[-1] == 1
        if number % 20 == 19:
            traffic.clear()
            oldest, before = sent[number // 20]
            after = await vector(client, oldest)
            assert after == pytest.approx(before, rel=0.05, abs=0.05)
            if traffic.statuses != [200]:
                break
    assert traffic.statuses == [400, 200]
    assert traffic.copies == [0, 1]


async def test_a_new_image_is_sent_once_for_all_its_vectors(
    served_model: ServedModel, client: MllmClient
) -> None:
    traffic = Traffic.of(client._concentrate)
    image = prepare_image(picture(2), "sha256:all-at-once", served_model.image)
    ask = partial(client.concentrate, image, "the mugs", "Two.", ["modal", "amodal"], 4, timeout=SECONDS)
    new, known = await ask(), await ask()
    assert (traffic.copies, traffic.statuses) == ([1, 0], [200, 200])
    for kind in ("modal", "amodal"):
        assert new[kind] == pytest.approx(known[kind], rel=0.05, abs=0.05)


async def vector(client: MllmClient, image: MllmImage) -> list[float]:
    vectors = await client.concentrate(image, "the mug", "It is red.", ["modal"], 1, timeout=SECONDS)
    values: list[float] = vectors["modal"][0].tolist()
    return values
