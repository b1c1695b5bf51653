"""The gateway's resize against the processor that vLLM runs: nothing may be left for it to do."""

from __future__ import annotations

import base64
import io
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as reference_resize

from engines.errors import ImageRejected
from engines.mllm.image import Bitmap, MllmImage, MllmImageConfig, prepare_image, smart_resize

DEMO = MllmImageConfig(min_pixels=39_200, max_pixels=224 * 224)
TIGHT = MllmImageConfig(min_pixels=40_000, max_pixels=224 * 224)
CONFIGS = (DEMO, MllmImageConfig(), MllmImageConfig(min_pixels=4 * 28 * 28, max_pixels=1280 * 28 * 28))
PIXELS = np.random.default_rng(5)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(PIXELS.integers(0, 256, (height, width, 3), dtype=np.uint8))


def sent(image: MllmImage) -> Image.Image:
    assert isinstance(image.content, Bitmap)
    bitmap = image.content.data_url.removeprefix("data:image/bmp;base64,")
    return Image.open(io.BytesIO(base64.b64decode(bitmap)))


def processed(
    kind: type, config: MllmImageConfig, image: Image.Image
) -> tuple[list[list[int]], NDArray[np.float32]]:
    size = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    result = kind(size=size)(images=[image], return_tensors="np")
    return result["image_grid_thw"].tolist(), result["pixel_values"]


@given(height=st.integers(1, 4000), width=st.integers(1, 4000), config=st.sampled_from((*CONFIGS, TIGHT)))
def test_sizes_are_the_processors(height: int, width: int, config: MllmImageConfig) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ImageRejected) as refused:
            smart_resize(height, width, config)
        assert refused.value.reason == "aspect_ratio"
        return
    size = smart_resize(height, width, config)
    processor = partial(
        reference_resize, factor=28, min_pixels=config.min_pixels, max_pixels=config.max_pixels
    )
    assert processor(*size) == size, "vLLM would resize it again"
    once = processor(height, width)
    if processor(*once) == once:
        assert size == once
    else:
        assert config in (DEMO, TIGHT), "only a tight range has sizes that the processor would change again"


@pytest.mark.parametrize("size", [(160, 641), (641, 160), (895, 1595), (100, 5000)])
def test_a_size_the_processor_would_change_again_gives_way_to_the_nearest_that_fits(
    size: tuple[int, int],
) -> None:
    height, width = size
    rows, columns = smart_resize(height, width, TIGHT)
    assert TIGHT.min_pixels <= rows * columns <= TIGHT.max_pixels
    assert rows / columns == pytest.approx(height / width, rel=0.15)


@pytest.mark.parametrize("config", CONFIGS, ids=["demo", "coprs", "qwen"])
@pytest.mark.parametrize("size", [(640, 480), (160, 320), (1600, 900), (224, 224), (333, 667)])
def test_the_processor_sees_the_pixels_it_would_have_made(
    size: tuple[int, int], config: MllmImageConfig
) -> None:
    image = noise(*size)
    png = sent(prepare_image(image, "sha256:x", config))
    grid, pixels = processed(Qwen2VLImageProcessorPil, config, png)
    expected_grid, expected = processed(Qwen2VLImageProcessorPil, config, image)
    assert grid == expected_grid
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("size", [(640, 480), (160, 320)])
def test_vllms_processor_only_normalises_what_is_sent(size: tuple[int, int]) -> None:
    png = sent(prepare_image(noise(*size), "sha256:x", DEMO))
    grid, pixels = processed(Qwen2VLImageProcessor, DEMO, png)
    assert grid == [[1, png.height // 14, png.width // 14]]
    _, plain = processed(Qwen2VLImageProcessorPil, DEMO, png)
    np.testing.assert_allclose(pixels, plain, atol=1e-5)


def test_an_image_is_sent_as_rgb_with_its_name_and_size() -> None:
    grey = Image.new("L", (300, 200), 77)
    image = prepare_image(grey, "sha256:abc", DEMO)
    png = sent(image)
    assert (png.mode, png.size) == ("RGB", (image.width, image.height))
    assert image.digest == "sha256:abc"
    assert "base64" not in repr(image)


def test_an_empty_range_of_sizes_is_refused() -> None:
    with pytest.raises(ValidationError, match="no multiple"):
        MllmImageConfig(min_pixels=785, max_pixels=1500)
