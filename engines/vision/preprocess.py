"""From a picture to what the image encoder takes: a square of S pixels, filled in one of three ways."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.vision.config import Fit


@dataclass(frozen=True, slots=True)
class Prepared:
    """`pixels` uint8 [S, S, 3], RGB, 0 in the padding; `size` the valid (h, w) in it; `original` (H, W).

    `corner` is where the valid area begins, (top, left).
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    original: tuple[int, int]
    corner: tuple[int, int] = (0, 0)


def prepare(image: NDArray[np.uint8], image_size: int, fit: Fit = "corner") -> Prepared:
    """Make a square of `image` uint8 [H, W, 3], RGB.

    ``corner``: resized as SAM's ResizeLongestSide does, padded right and bottom. ``stretch``: resized to the square,
    as SAM 2 does. ``centre``: the longer side to S, padded on both sides, as ConverSeg-Net does. The resampling is
    PIL's bilinear, which averages over the source area when it shrinks; OpenCV's for ``centre``.
    """
    height, width = image.shape[:2]
    if fit == "centre":
        return _centred(image, image_size)
    if fit == "stretch":
        square = Image.fromarray(image).resize((image_size, image_size), Image.Resampling.BILINEAR)
        return Prepared(np.asarray(square), (image_size, image_size), (height, width))
    size = resized_size(height, width, image_size)
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.zeros((image_size, image_size, 3), dtype=np.uint8)
    pixels[: size[0], : size[1]] = np.asarray(resized)
    return Prepared(pixels, size, (height, width))


def _centred(image: NDArray[np.uint8], side: int) -> Prepared:
    height, width = image.shape[:2]
    scale = side / max(height, width)
    rows, columns = (max(1, round(length * scale)) for length in (height, width))
    resampling = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, (columns, rows), interpolation=resampling)
    top, left = (side - rows) // 2, (side - columns) // 2
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    pixels[top : top + rows, left : left + columns] = resized
    return Prepared(pixels, (rows, columns), (height, width), (top, left))


def resized_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """(h, w) with the longer side `longest`, rounded half up as SAM does, and never less than one pixel."""
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
