"""From a picture to what the image encoder takes: the longer side to S, the rest padded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True)
class Prepared:
    """`pixels` uint8 [S, S, 3], RGB, 0 in the padding; `size` the valid (h, w) in it; `original` (H, W)."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    original: tuple[int, int]


def prepare(image: NDArray[np.uint8], image_size: int) -> Prepared:
    """Resize `image` uint8 [H, W, 3], RGB, as SAM's ResizeLongestSide does and pad it right and bottom.

    The resampling is PIL's bilinear, which averages over the source area when it shrinks.
    """
    height, width = image.shape[:2]
    size = resized_size(height, width, image_size)
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.zeros((image_size, image_size, 3), dtype=np.uint8)
    pixels[: size[0], : size[1]] = np.asarray(resized)
    return Prepared(pixels, size, (height, width))


def resized_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """(h, w) with the longer side `longest`, rounded half up as SAM does, and never less than one pixel."""
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
