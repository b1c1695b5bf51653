"""The metrics against plain computations on sets of pixels."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engines.evaluation.metrics import (
    Mask,
    Overlap,
    ciou,
    fuse,
    giou,
    instance_ious,
    mean,
    overlap,
    percentile,
)

SHAPE = (4, 5)
masks = arrays(np.bool_, SHAPE)
pairs = st.lists(st.tuples(masks, masks), min_size=1, max_size=6)


def pixels(mask: Mask) -> set[tuple[int, int]]:
    """The coordinates inside a mask, found one by one."""
    return {(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]}


def plain_iou(a: Mask, b: Mask) -> float:
    """IoU of two sets; 1 where both are empty."""
    union = pixels(a) | pixels(b)
    return len(pixels(a) & pixels(b)) / len(union) if union else 1.0


@given(pairs)
def test_giou_is_the_mean_of_the_ious(pairs: list[tuple[Mask, Mask]]) -> None:
    total = sum(plain_iou(a, b) for a, b in pairs)
    assert giou([overlap(a, b) for a, b in pairs]) == pytest.approx(total / len(pairs))


@given(pairs)
def test_ciou_is_all_intersections_over_all_unions(pairs: list[tuple[Mask, Mask]]) -> None:
    shared = sum(len(pixels(a) & pixels(b)) for a, b in pairs)
    either = sum(len(pixels(a) | pixels(b)) for a, b in pairs)
    found = ciou([overlap(a, b) for a, b in pairs])
    assert found == (pytest.approx(shared / either) if either else None)


@given(st.lists(masks, max_size=4))
def test_fusing_is_the_union(parts: list[Mask]) -> None:
    assert pixels(fuse(parts, SHAPE)) == set().union(*map(pixels, parts))


@given(st.lists(masks, max_size=4), st.lists(masks, max_size=3))
def test_instances_get_the_best_matching(predictions: list[Mask], truths: list[Mask]) -> None:
    nothing = [np.zeros(SHAPE, dtype=np.bool_)] * len(truths)  # a truth may stay without a prediction, at 0
    padded = [*((mask, True) for mask in predictions), *((mask, False) for mask in nothing)]
    best = max(
        sum(
            plain_iou(mask, truth) if real else 0.0
            for (mask, real), truth in zip(chosen, truths, strict=True)
        )
        for chosen in permutations(padded, len(truths))
    )
    found = instance_ious(predictions, truths)
    assert len(found) == len(truths)
    assert sum(found) == pytest.approx(best)


def test_no_target_and_no_mask_is_right() -> None:
    empty = np.zeros(SHAPE, dtype=np.bool_)
    assert overlap(empty, empty).iou == 1.0
    assert overlap(~empty, empty).iou == 0.0


def test_two_predictions_do_not_share_one_instance() -> None:
    left = np.zeros(SHAPE, dtype=np.bool_)
    left[:, :2] = True
    assert instance_ious([left, left], [left, ~left]) == [1.0, 0.0]
    assert instance_ious([left], [~left, left]) == [0.0, 1.0]


def test_masks_of_different_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\), the truth \(5, 4\)"):
        overlap(np.zeros((4, 5), dtype=np.bool_), np.zeros((5, 4), dtype=np.bool_))
    with pytest.raises(ValueError, match=r"a mask is \(5, 4\)"):
        fuse([np.zeros((5, 4), dtype=np.bool_)], SHAPE)


def test_no_values_give_no_figure() -> None:
    assert (giou([]), ciou([]), mean([]), percentile([], 0.5)) == (None, None, None, None)
    assert ciou([Overlap(0, 0)]) is None


def test_percentiles_are_interpolated() -> None:
    assert percentile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.5
