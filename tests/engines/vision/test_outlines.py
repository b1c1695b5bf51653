"""Masks made along their outline are those of every pixel worked out, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco
from torch.nn import functional as F

from engines.vision import masks, outlines
from engines.vision.preprocess import resized_size

KINDS = ("blobs", "specks", "noise", "steps", "none", "all", "border")


def _logits(kind: str, cells: int, seed: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    if kind in ("none", "border"):  # a logit on the threshold is outside
        return np.full((cells, cells), 0 if kind == "border" else -1, np.float32)
    if kind == "all":
        return np.full((cells, cells), 1e-6, np.float32)
    if kind == "steps":
        return generator.integers(-1, 2, (cells, cells)).astype(np.float32)
    noise = generator.standard_normal((cells, cells)).astype(np.float32)
    if kind == "noise":
        return noise
    if kind == "specks":
        return np.where(noise > 2.5, noise, np.float32(-1))
    return F.interpolate(torch.from_numpy(noise[None, None, :5, :5]), (cells, cells), mode="bicubic")[
        0, 0
    ].numpy()


def every_pixel(
    logits: NDArray[np.float32], size: tuple[int, int], original: tuple[int, int], corner: tuple[int, int]
) -> list[NDArray[np.bool_]]:
    """The plain slow way: the picture [H, W] of each of the logits [B, cells, cells], filled pixel by pixel."""
    height, width = original
    columns = outlines.across(logits, size, width, corner[1])
    mixing = outlines.down(logits.shape[-1], max(size), corner[0], size[0], height)
    filled = mixing.values(columns, np.arange(len(columns))[:, None], np.arange(height)[None])
    return [picture.T > 0 for picture in filled.reshape(len(logits), width, height)]


@settings(max_examples=120, deadline=None)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    square=st.sampled_from([64, 128, 256]),
    stride=st.sampled_from([1, 2, 4]),
    centred=st.booleans(),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    threshold=st.sampled_from([0.0, 0.5, -0.3, 1.0]),
    seed=st.integers(0, 2**16),
)
@example(1, 400, 64, 4, False, ["blobs"], 0.0, 0)
@example(400, 1, 64, 4, True, ["noise"], 0.0, 0)
@example(1, 1, 64, 4, True, ["noise", "all"], 0.0, 0)
@example(3, 2, 256, 1, False, ["noise"], 0.0, 0)
def test_the_outline_gives_what_every_pixel_gives(
    height: int,
    width: int,
    square: int,
    stride: int,
    centred: bool,
    kinds: list[str],
    threshold: float,
    seed: int,
) -> None:
    size = resized_size(height, width, square)
    corner = ((square - size[0]) // 2, (square - size[1]) // 2) if centred else (0, 0)
    logits = np.stack([_logits(kind, square // stride, seed + n) for n, kind in enumerate(kinds)])
    expected = every_pixel(logits - np.float32(threshold), size, (height, width), corner)

    made = masks.finish_all(logits, size, (height, width), threshold, corner)

    assert len(made) == len(kinds)
    for mask, pixels in zip(made, expected, strict=True):
        code = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
        assert mask.rle["size"] == [height, width]
        assert mask.rle["counts"].encode() == code["counts"]
        assert mask.area == pixels.sum()
        assert mask.bbox == coco.toBbox(code).tolist()


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_an_outline_is_dealt_with_in_parts(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.stack([_logits("noise", 32, seed) for seed in range(2)])
    frame = (96, 128), (61, 83)
    whole = masks.finish_all(logits, *frame)
    monkeypatch.setattr(outlines, "PIXELS_AT_ONCE", at_once)

    assert masks.finish_all(logits, *frame) == whole


@pytest.mark.parametrize("original", [(1200, 1800), (171, 256), (40, 60), (1, 2)])
def test_every_pixel_is_mixed_as_published(original: tuple[int, int]) -> None:
    """SAM's postprocess_masks, in double precision."""
    logits, size, corner = _logits("noise", 256, 5), (683, 1024), (100, 0)
    mask = torch.from_numpy(logits).double()[None, None]
    mask = F.interpolate(mask, (1024, 1024), mode="bilinear", align_corners=False)
    mask = mask[..., corner[0] : corner[0] + size[0], : size[1]]
    expected = F.interpolate(mask, original, mode="bilinear", align_corners=False)[0, 0].numpy()
    columns = outlines.across(logits[None], size, original[1], corner[1])
    mixing = outlines.down(256, 1024, corner[0], size[0], original[0])

    values = mixing.values(columns, np.arange(original[1])[:, None], np.arange(original[0])[None]).T

    np.testing.assert_allclose(values, expected, atol=2e-4)
