"""The image tower that is run here against transformers' own, and what vLLM is sent of it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from engines.errors import BundleError, GraphRejected, VisionFailed
from engines.mllm.image import Payload
from engines.sight import knows_tower, open_tower
from engines.sight.config import read_tower
from engines.sight.graph import PREFIXES, TowerGraph, read_weights
from engines.sight.tower import ImageTower, Pixels, Seen, _angles, halved, patches_of
from tests.tiny_model import spread

VISION = {
    "depth": 2,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_heads": 4,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [0, 1],
    "rope_parameters": {"rope_type": "axial", "rope_theta": 500.0},
}
SCALE = {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD}
SIZES = [(56, 56), (112, 84), (84, 140)]
SECONDS = 30.0
NOISE = np.random.default_rng(11)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(NOISE.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL whose tower sees the whole image in every block."""
    folder = tmp_path_factory.mktemp("model")
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]}
    config = Qwen2_5_VLConfig(text_config={**text, **heads, "rope_parameters": rope}, vision_config=VISION)
    torch.manual_seed(3)
    made = Qwen2_5_VLForConditionalGeneration(config)
    spread(made)
    made.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SCALE), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tower(model: Path) -> Iterator[ImageTower]:
    tower = ImageTower.open(model, threads=1)
    yield tower
    tower.close()


def expected(model: Path, image: Image.Image) -> torch.Tensor:
    """What transformers makes of an image that has its size, float32 (tokens, D)."""
    whole = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    processor = Qwen2VLImageProcessor(do_resize=False, patch_size=14, merge_size=2, temporal_patch_size=2)
    given = processor(images=[image], return_tensors="pt")
    with torch.inference_mode():
        found: torch.Tensor = whole.model.visual(
            given["pixel_values"], grid_thw=given["image_grid_thw"]
        ).pooler_output
    return found


def changed(model: Path, into: Path, **vision: object) -> Path:
    """A copy of the model's description with another tower."""
    described = json.loads((model / "config.json").read_text(encoding="utf-8"))
    described["vision_config"] |= vision
    (into / "config.json").write_text(json.dumps(described), encoding="utf-8")
    (into / "preprocessor_config.json").write_text(json.dumps(SCALE), encoding="utf-8")
    return into


@pytest.mark.parametrize("size", SIZES)
def test_the_graph_is_transformers_tower(model: Path, size: tuple[int, int]) -> None:
    found = read_tower(model)
    assert found is not None
    config, scale = found
    image = picture(*size)
    patches = torch.from_numpy(patches_of(np.asarray(image), config))
    cos, sin = (torch.from_numpy(one) for one in _angles(config, size[1] // 14, size[0] // 14))
    with torch.inference_mode():
        features = TowerGraph(config, scale, read_weights(model))(patches, cos, sin)
    torch.testing.assert_close(features, expected(model, image), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_the_tower_sees_what_transformers_sees(model: Path, tower: ImageTower, size: tuple[int, int]) -> None:
    image = picture(*size)
    features = torch.from_numpy(tower.see(np.asarray(image)))
    assert features.shape == (size[0] * size[1] // 28**2, 64)
    cosines = torch.nn.functional.cosine_similarity(features, expected(model, image), dim=-1)
    assert cosines.min() > 0.999, "but for the rounding of bfloat16"


def test_what_was_seen_stays_when_another_image_is_seen(tower: ImageTower) -> None:
    image = np.asarray(picture(56, 56))
    first = tower.see(image)
    kept = first.copy()
    tower.see(np.asarray(picture(56, 56)))
    np.testing.assert_array_equal(first, kept)


async def test_vllm_is_sent_numpy_files(tower: ImageTower) -> None:
    image = picture(112, 84)
    payload = await tower.content(image).payload()
    arrays = {name: np.load(io.BytesIO(base64.b64decode(text))) for name, text in payload.items()}
    assert arrays["image_grid_thw"].tolist() == [1, 6, 8]
    assert arrays["image_embeds"].dtype == np.float16
    np.testing.assert_allclose(arrays["image_embeds"], tower.see(np.asarray(image)), rtol=1e-3, atol=1e-3)


def test_features_that_are_too_large_for_half_precision_are_sent_whole() -> None:
    small, large = np.array([[1.5, -60_000.0]], np.float32), np.array([[1.5, -70_000.0]], np.float32)
    assert halved(small).dtype == np.float16
    np.testing.assert_array_equal(halved(large), large)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_tensors_are_found_by_either_of_their_names(model: Path, tmp_path: Path, prefix: str) -> None:
    stored = {
        name: tensor for file in model.glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    mine = {name.partition("visual.")[2]: tensor for name, tensor in stored.items() if "visual." in name}
    others = {"model.embed_tokens.weight": torch.zeros(2, 2)}
    save_file(
        {f"{prefix}{name}": tensor for name, tensor in mine.items()} | others, tmp_path / "a.safetensors"
    )
    assert read_weights(tmp_path).keys() == mine.keys()


def test_a_tower_that_looks_through_windows_is_left_to_vllm(model: Path, tmp_path: Path) -> None:
    assert knows_tower(model)
    folder = changed(model, tmp_path, fullatt_block_indexes=[1])
    assert not knows_tower(folder)
    with pytest.raises(GraphRejected, match="not known here"):
        open_tower(folder)


@pytest.mark.parametrize("scale", [{}, {**SCALE, "do_normalize": False}, {**SCALE, "image_std": [1, 1]}])
def test_pixels_that_are_scaled_otherwise_are_left_to_vllm(
    model: Path, tmp_path: Path, scale: dict[str, Any]
) -> None:
    folder = changed(model, tmp_path)
    assert knows_tower(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(scale), encoding="utf-8")
    assert not knows_tower(folder)


def test_another_model_is_left_to_vllm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}', encoding="utf-8")
    assert not knows_tower(tmp_path)


def test_files_that_cannot_be_read_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"config\.json"):
        knows_tower(tmp_path)
    changed(model, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        open_tower(tmp_path)


def test_a_checkpoint_that_lacks_a_tensor_is_refused(model: Path, tmp_path: Path) -> None:
    changed(model, tmp_path)
    stored = {
        name: tensor for file in model.glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    save_file(
        {name: one for name, one in stored.items() if "merger.ln_q" not in name}, tmp_path / "m.safetensors"
    )
    with pytest.raises(GraphRejected, match=r"merger\.ln_q\.weight"):
        open_tower(tmp_path)


class CountingTower:
    """Stands in for a tower: tells when it is asked and when it begins, and answers when it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.begun = threading.Semaphore(0)
        self.may = threading.Event()
        self.fault: Exception | None = None
        self._thread = ThreadPoolExecutor(1)

    def begin(self, pixels: Pixels) -> Future[Payload]:
        self.asked += 1
        return self._thread.submit(self._make, pixels)

    def _make(self, pixels: Pixels) -> Payload:
        self.begun.release()
        assert self.may.wait(SECONDS)
        if self.fault is not None:
            raise self.fault
        return {"image_embeds": str(pixels.size)}

    async def has_begun(self) -> None:
        """Wait until it makes one more."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=SECONDS)

    def features_bytes(self, pixels: NDArray[np.uint8]) -> int:
        return pixels.size


def seen(tower: CountingTower) -> Seen:
    return Seen(np.zeros((28, 28, 3), np.uint8), tower)  # type: ignore[arg-type]  # as much of one as is used


async def test_features_are_made_when_they_are_first_wanted_and_once() -> None:
    tower = CountingTower()
    image = seen(tower)
    assert image.nbytes == 2 * 28 * 28 * 3
    waiting = [asyncio.create_task(image.payload()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    tower.may.set()
    assert await waiting[1] == await waiting[2] == await image.payload() == {"image_embeds": "2352"}
    assert tower.asked == 1


async def test_features_that_could_not_be_made_are_made_for_the_next_who_wants_them() -> None:
    tower = CountingTower()
    tower.may.set()
    tower.fault = VisionFailed("out of memory")
    image = seen(tower)
    with pytest.raises(VisionFailed):
        await image.payload()
    tower.fault = None
    assert await image.payload() == {"image_embeds": "2352"}


async def test_features_that_nobody_waits_for_any_more_are_not_begun() -> None:
    tower = CountingTower()
    kept, left = seen(tower), seen(tower)
    waiting = [asyncio.create_task(one.payload()) for one in (kept, left)]
    await tower.has_begun()
    waiting[1].cancel()
    await asyncio.wait(waiting[1:])
    tower.may.set()
    await waiting[0]
    assert await left.payload() == {"image_embeds": "2352"}
    assert tower.asked == 3, "those that nobody wanted were dropped, or the second asker would have got them"


async def test_features_that_have_begun_are_there_for_the_next_who_wants_them() -> None:
    tower = CountingTower()
    image = seen(tower)
    waiting = asyncio.create_task(image.payload())
    await tower.has_begun()
    waiting.cancel()
    await asyncio.wait([waiting])
    tower.may.set()
    assert await image.payload() == {"image_embeds": "2352"}
    assert tower.asked == 1
