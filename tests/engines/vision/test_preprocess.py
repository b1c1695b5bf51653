"""Resizing and padding as SAM does them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engines.vision.masks import decode, finish
from engines.vision.preprocess import prepare, resized_size
from engines.vision.visual_prompt import Point, VisualPrompt

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


def test_a_stretched_image_fills_the_square() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8)
    made = prepare(image, 64, "stretch")
    assert (made.size, made.original, made.corner) == ((64, 64), (30, 90), (0, 0))
    assert np.array_equal(
        made.pixels, np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR))
    )


@given(sides, sides)
def test_a_centred_image_is_black_on_both_sides(height: int, width: int) -> None:
    made = prepare(np.full((height, width, 3), 255, dtype=np.uint8), 48, "centre")
    (top, left), (rows, columns) = made.corner, made.size
    assert max(rows, columns) == 48
    assert (48 - rows - top - top, 48 - columns - left - left) in {(0, 0), (1, 0), (0, 1)}
    assert (made.pixels[top : top + rows, left : left + columns] == 255).all()
    assert made.pixels.sum() == 255 * 3 * rows * columns


def test_a_mask_and_a_point_find_their_way_back_from_the_centre() -> None:
    made = prepare(np.zeros((40, 80, 3), dtype=np.uint8), 64, "centre")
    logits = np.full((16, 16), -1.0, dtype=np.float32)
    logits[4:8, 8:] = 1.0  # the upper half of the picture, right of its middle
    mask = decode(finish(logits, made.size, made.original, corner=made.corner).rle)
    assert mask[:19, 42:].all()
    assert not mask[21:].any()
    assert not mask[:, :38].any()
    sparse = VisualPrompt(points=(Point(20, 10),)).sparse(made.original, made.size, made.corner)
    assert sparse.points[0].tolist() == [16.0, 24.0]
