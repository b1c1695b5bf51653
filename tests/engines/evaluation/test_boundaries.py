"""Boundary IoU against a search of every pixel's neighbourhood, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from engines.evaluation.metrics import Mask, boundary, boundary_overlap

masks = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12).flatmap(lambda s: arrays(np.bool_, s))


def plain_boundary(mask: Mask, pixels: int) -> set[tuple[int, int]]:
    """Pixels inside that have one outside, or the picture's edge, within `pixels` in both directions."""
    height, width = mask.shape
    near = range(-pixels, pixels + 1)

    def outside(y: int, x: int) -> bool:
        return not (0 <= y < height and 0 <= x < width and mask[y, x])

    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        if mask[y, x] and any(outside(y + dy, x + dx) for dy in near for dx in near)
    }


@given(masks, st.integers(1, 4))
def test_the_boundary_is_what_has_the_outside_near(mask: Mask, pixels: int) -> None:
    found = boundary(mask, pixels / math.hypot(*mask.shape))
    assert {(int(y), int(x)) for y, x in np.argwhere(found)} == plain_boundary(mask, pixels)


@given(masks.flatmap(lambda mask: st.tuples(st.just(mask), arrays(np.bool_, mask.shape))))
def test_the_overlap_is_that_of_the_boundaries(pair: tuple[Mask, Mask]) -> None:
    one, other = (plain_boundary(mask, 2) for mask in pair)
    found = boundary_overlap(*pair, width=2 / math.hypot(*pair[0].shape))
    assert (found.intersection, found.union) == (len(one & other), len(one | other))


def test_a_square_one_pixel_aside() -> None:
    square = np.zeros((100, 100), dtype=np.bool_)
    square[20:60, 20:60] = True
    # 2 % of the diagonal is 3 pixels: the ring has 40² - 34² = 444 of them
    assert np.count_nonzero(boundary(square)) == 444
    aside = np.roll(square, 3, axis=1)
    found = boundary_overlap(square, aside)
    # Rows at the top and bottom share 37 columns each (6 rows); on the sides the rings only touch.
    assert (found.intersection, found.union) == (6 * 37, 2 * 444 - 6 * 37)
    assert boundary_overlap(square, square).iou == 1.0


def test_two_empty_masks_agree_and_sizes_must() -> None:
    empty = np.zeros((5, 5), dtype=np.bool_)
    assert boundary_overlap(empty, empty).iou == 1.0
    assert boundary_overlap(~empty, empty).iou == 0.0
    with pytest.raises(ValueError, match="the truth"):
        boundary_overlap(empty, np.zeros((5, 6), dtype=np.bool_))
