"""Resizing and padding as SAM does them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engines.vision.preprocess import prepare, resized_size

sides = st.integers(1, 4000)


@given(sides, sides)
def test_the_longer_side_fills_the_square(height: int, width: int) -> None:
    resized = resized_size(height, width, 192)

    assert max(resized) == 192
    assert min(resized) >= 1
    exact = 192 / max(height, width) * min(height, width)
    assert abs(min(resized) - exact) <= max(0.5, 1 - exact)


@pytest.mark.parametrize(
    ("original", "size"), [((1200, 1800), (683, 1024)), ((480, 640), (768, 1024)), ((3000, 1), (1024, 1))]
)
def test_sizes_are_those_of_resize_longest_side(original: tuple[int, int], size: tuple[int, int]) -> None:
    assert resized_size(*original, 1024) == size


def test_pixels_lie_top_left_and_the_rest_is_zero() -> None:
    image = np.random.default_rng(0).integers(1, 256, (50, 100, 3), dtype=np.uint8)

    prepared = prepare(image, 64)

    assert (prepared.size, prepared.original) == ((32, 64), (50, 100))
    expected = np.asarray(Image.fromarray(image).resize((64, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(prepared.pixels[:32], expected)
    assert not prepared.pixels[32:].any()


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)

    assert np.array_equal(prepare(image, 64).pixels, image)
