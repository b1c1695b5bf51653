"""Real vLLM servers say of an image's features what they say of its pixels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engines.demo.language import ask
from engines.demo.scenes import render_scene
from engines.mllm.client import MllmClient
from engines.mllm.image import MllmImage, prepare_image
from engines.sight import Tower, knows_tower, open_tower
from tests.engines.mllm.asking_vllm import SAME, SECONDS, cosine, metric, reason
from tests.vllm_fixture import ServedModel

pytestmark = pytest.mark.vllm

SCENES, BUDGET = range(22_000_000, 22_000_004), 160


@pytest.fixture(scope="module")
def tower(served_model: ServedModel) -> Iterator[Tower]:
    if not knows_tower(served_model.path):
        pytest.skip("the model's image tower is not one that can be run here")
    tower = open_tower(served_model.path)
    yield tower
    tower.close()


def pictures(served: ServedModel, tower: Tower, seed: int) -> tuple[MllmImage, MllmImage, str]:
    """One image as pixels and as features, and a question about it."""
    scene = render_scene(seed, longest=320)
    image, [query] = Image.fromarray(scene.image), ask(scene, random.Random(seed), 1)
    pixels = prepare_image(image, f"sha256:pixels-{seed}", served.image)
    features = prepare_image(image, f"sha256:features-{seed}", served.image, tower.content)
    return pixels, features, query.prompt


@pytest.mark.parametrize("seed", SCENES)
async def test_features_are_answered_as_the_pixels_are(
    served_model: ServedModel, tower: Tower, seed: int
) -> None:
    pixels, features, prompt = pictures(served_model, tower, seed)
    async with served_model.client() as client:
        ends = [(await reason(client, image, BUDGET, prompt))[1] for image in (pixels, features)]
        assert ends[0].text == ends[1].text
        states = [await state(client, image, prompt, ends[0].text) for image in (pixels, features)]
        assert cosine(*states) >= SAME


async def state(client: MllmClient, image: MllmImage, prompt: str, reasoning: str) -> NDArray[np.float32]:
    found = await client.concentrate(image, prompt, reasoning, ["modal"], 1, timeout=SECONDS)
    state: NDArray[np.float32] = found["modal"][0]
    return state


async def test_known_features_are_read_once_and_never_refused(
    served_model: ServedModel, tower: Tower
) -> None:
    _, features, prompt = pictures(served_model, tower, SCENES[0])
    async with served_model.client() as client:
        _, first = await reason(client, features, BUDGET, prompt)
        hits = await metric(served_model.reason_url, "prefix_cache_hits_total")
        [server] = client._reason._servers
        statuses = list[int]()
        server.role._client.event_hooks = {"response": [partial(note, statuses)]}
        _, again = await reason(client, features, BUDGET, prompt)
        assert again.text == first.text
        assert await metric(served_model.reason_url, "prefix_cache_hits_total") > hits
    assert statuses == [200]


async def note(statuses: list[int], response: httpx.Response) -> None:
    statuses.append(response.status_code)
