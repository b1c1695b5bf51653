"""From mask logits to masks in the picture's own pixels: upscale, unpad, threshold, run-length code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from engines.events import Rle
from engines.vision.complement import complement
from engines.vision.outlines import run_lengths


@dataclass(frozen=True, slots=True)
class Mask:
    """A binary mask: `rle` over the whole picture, `bbox` [x, y, width, height] and `area` in pixels.

    An empty mask has the box [0, 0, 0, 0].
    """

    rle: Rle
    bbox: list[float]
    area: int


def finish(
    mask_logits: NDArray[np.float32],
    size: tuple[int, int],
    original: tuple[int, int],
    threshold: float = 0.0,
    corner: tuple[int, int] = (0, 0),
) -> Mask:
    """Turn the decoder's logits [4g, 4g] into a mask of the picture; the arguments are those of `finish_all`."""
    return finish_all(mask_logits[None], size, original, threshold, corner)[0]


def finish_all(
    mask_logits: NDArray[np.float32],
    size: tuple[int, int],
    original: tuple[int, int],
    threshold: float = 0.0,
    corner: tuple[int, int] = (0, 0),
) -> list[Mask]:
    """Turn the decoder's logits into masks of one picture.

    As SAM: bilinear to the square's pixels, padding cut off, bilinear to the picture, and what is above the
    threshold is inside. No picture is ever filled with logits or pixels for it.

    Args:
        mask_logits: float32 [B, 4g, 4g], over the padded square.
        size: the valid (h, w) in pixels of the padded square; its longer side is the square's side.
        original: the picture's (H, W).
        threshold: logits above it are inside.
        corner: where the valid area begins, (top, left).
    """
    lengths = run_lengths(mask_logits - np.float32(threshold), size, original, corner)
    uncompressed: Any = [{"size": list(original), "counts": counts} for counts in lengths]
    codes = coco.frPyObjects(uncompressed, *original)
    return [_described(code) for code in codes]


def encode(mask: NDArray[np.bool_]) -> Mask:
    """A bool mask [H, W] as a `Mask`; no transpose is made where it is Fortran-ordered."""
    return _described(coco.encode(np.asfortranarray(mask).view(np.uint8)))


def _described(code: Any) -> Mask:
    x, y, width, height = coco.toBbox(code).tolist()
    rle = Rle(size=[int(side) for side in code["size"]], counts=cast("bytes", code["counts"]).decode("ascii"))
    return Mask(rle, [x, y, width, height], int(coco.area(code)))


def decode(rle: Rle) -> NDArray[np.bool_]:
    """The bool mask [H, W] of a run-length code, Fortran-ordered."""
    pixels = coco.decode({"size": rle["size"], "counts": rle["counts"].encode("ascii")})
    return cast("NDArray[np.bool_]", pixels.view(np.bool_))


def subtract(whole: Rle, part: Rle) -> Mask:
    """What `whole` has and `part` has not: the hidden part, for an amodal and a modal mask of one picture."""
    codes: list[Any] = [
        {"size": whole["size"], "counts": whole["counts"].encode("ascii")},
        {"size": part["size"], "counts": complement(part["counts"].encode("ascii"))},
    ]
    return _described(coco.merge(codes, intersect=True))


def unite(parts: Sequence[Rle]) -> Mask:
    """What is in any of `parts`, all of one picture."""
    codes: list[Any] = [{"size": part["size"], "counts": part["counts"].encode("ascii")} for part in parts]
    return _described(coco.merge(codes))


def iou(one: Rle, other: Rle) -> float:
    """Intersection over union of two masks of one picture; 1 where both are empty."""
    codes: list[Any] = [
        {"size": rle["size"], "counts": rle["counts"].encode("ascii")} for rle in (one, other)
    ]
    union = int(coco.area(coco.merge(codes)))
    return int(coco.area(coco.merge(codes, intersect=True))) / union if union else 1.0


def probabilities(prior_logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """The positional prior over the picture's area only: logits [4g, 4g] to float32 [h', w'] in 0..1.

    `size` is the valid (h, w) in pixels of the padded square; a cell that is partly inside is kept.
    """
    cells, square = prior_logits.shape[0], max(size)
    height, width = (-(-side * cells // square) for side in size)
    inside: NDArray[np.float32] = 1 / (1 + np.exp(-prior_logits[:height, :width].clip(-80, 80)))
    return inside
