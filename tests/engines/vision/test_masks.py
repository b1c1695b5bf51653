"""Masks from logits against the plain way in torch, and masks by their run-length codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco
from torch.nn import functional as F

from engines.vision import masks
from engines.vision.preprocess import resized_size

ROUNDING = 1e-3  # logits this close to the threshold may fall either way (they have a deviation of 1 here)


def _as_published(
    logits: NDArray[np.float32], square: int, size: tuple[int, int], original: tuple[int, int]
) -> NDArray[np.float32]:
    """SAM's postprocess_masks."""
    mask = torch.from_numpy(logits)[None, None]
    mask = F.interpolate(mask, (square, square), mode="bilinear", align_corners=False)
    mask = mask[..., : size[0], : size[1]]
    return F.interpolate(mask, original, mode="bilinear", align_corners=False)[0, 0].numpy()


def _logits(cells: int, seed: int, smooth: int) -> NDArray[np.float32]:
    coarse = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, 1, smooth, smooth)))
    return F.interpolate(coarse, (cells, cells), mode="bicubic")[0, 0].float().numpy()


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    square=st.sampled_from([64, 192, 256]),
    stride=st.sampled_from([2, 4]),
    seed=st.integers(0, 2**16),
    smooth=st.sampled_from([3, 8, 16]),
)
def test_equals_the_plain_way(
    height: int, width: int, square: int, stride: int, seed: int, smooth: int
) -> None:
    size = resized_size(height, width, square)
    logits = _logits(square // stride, seed, smooth)
    expected = _as_published(logits, square, size, (height, width))

    mask = masks.finish(logits, size, (height, width))

    pixels = masks.decode(mask.rle)
    assert pixels.shape == (height, width)
    sure = np.abs(expected) > ROUNDING
    assert np.array_equal(pixels[sure], expected[sure] > 0)
    assert mask.area == pixels.sum()
    assert mask.bbox == _plain_box(pixels)


def _plain_box(pixels: NDArray[np.bool_]) -> list[float]:
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not rows.size:
        return [0, 0, 0, 0]
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


def test_the_threshold_is_a_logit() -> None:
    logits = np.linspace(-4, 4, 16, dtype=np.float32)[None, :].repeat(16, axis=0)

    areas = [masks.finish(logits, (64, 64), (64, 64), threshold).area for threshold in (-5, -2, 0, 2, 5)]

    assert areas[0] == 64 * 64
    assert areas[-1] == 0
    assert areas == sorted(areas, reverse=True)
    assert len(set(areas)) == 5


def test_an_empty_mask_has_an_empty_box() -> None:
    mask = masks.finish(np.full((16, 16), -1, np.float32), (64, 32), (100, 50))

    assert mask.rle["size"] == [100, 50]
    assert (mask.area, mask.bbox) == (0, [0, 0, 0, 0])
    assert isinstance(mask.rle["counts"], str)
    assert not masks.decode(mask.rle).any()


@pytest.mark.parametrize("order", ["C", "F"])
def test_encode_equals_pycocotools_whatever_the_order(order: str) -> None:
    pixels = np.random.default_rng(1).random((37, 53)) > 0.6
    laid_out = np.asarray(pixels, order="C" if order == "C" else "F")

    mask = masks.encode(laid_out)

    expected = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    assert mask.rle["size"] == [37, 53]
    assert mask.rle["counts"].encode() == expected["counts"]
    assert np.array_equal(masks.decode(mask.rle), pixels)


def test_subtract_leaves_the_hidden_part() -> None:
    whole, part = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    whole[2:10, 4:20], part[2:10, 4:12] = True, True
    part[15, 15] = True  # seen, but outside the whole: not the hidden part's business

    hidden = masks.subtract(masks.encode(whole).rle, masks.encode(part).rle)

    assert hidden.area == 8 * 8
    assert hidden.bbox == [12, 2, 8, 8]
    assert hidden == masks.encode(whole & ~part)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_subtract_gives_the_code_that_encoding_the_pixels_gives(share: float) -> None:
    chance = np.random.default_rng(7)
    whole, part = chance.random((40, 30)) < 0.6, chance.random((40, 30)) < share
    assert masks.subtract(masks.encode(whole).rle, masks.encode(part).rle) == masks.encode(whole & ~part)


@pytest.mark.parametrize(("size", "cells"), [((64, 64), (16, 16)), ((64, 33), (16, 9)), ((1, 64), (1, 16))])
def test_probabilities_cover_the_picture_only(size: tuple[int, int], cells: tuple[int, int]) -> None:
    prior = np.random.default_rng(2).standard_normal((16, 16)).astype(np.float32) * 200

    inside = masks.probabilities(prior, size)

    assert inside.shape == cells
    assert inside.dtype == np.float32
    expected = torch.from_numpy(prior).sigmoid().numpy()[: cells[0], : cells[1]]
    np.testing.assert_allclose(inside, expected, atol=1e-6)
