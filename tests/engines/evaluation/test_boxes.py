"""Boxes against sets of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engines.evaluation.metrics import Box, Mask, box_iou, box_of

boxes = st.tuples(*[st.integers(0, 8)] * 2, *[st.integers(1, 6)] * 2)


def cells(box: Box) -> set[tuple[int, int]]:
    """The pixels of a box with whole numbers."""
    x, y, width, height = map(int, box)
    return {(a, b) for a in range(x, x + width) for b in range(y, y + height)}


@given(boxes, boxes)
def test_iou_of_boxes_is_that_of_their_pixels(one: Box, other: Box) -> None:
    a, b = cells(one), cells(other)
    assert box_iou(one, other) == pytest.approx(len(a & b) / len(a | b))


@given(arrays(np.bool_, (5, 7)))
def test_the_box_holds_every_pixel_and_none_to_spare(mask: Mask) -> None:
    pixels = [(x, y) for y in range(5) for x in range(7) if mask[y, x]]
    if not pixels:
        assert box_of(mask) is None
        return
    xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
    assert box_of(mask) == (min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)


def test_a_box_that_is_missing_fits_only_another_that_is() -> None:
    assert (box_iou(None, None), box_iou(None, (0, 0, 1, 1)), box_iou((0, 0, 1, 1), None)) == (1.0, 0.0, 0.0)
