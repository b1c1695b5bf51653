"""One decoded image in the forms that the engines take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from engines.mllm.image import Content, MllmImage, MllmImageConfig, as_bitmap, prepare_image
from engines.vision.config import Fit
from engines.vision.preprocess import Prepared, prepare


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image as both engines take it. `digest` is ``sha256:<hex>`` of the uploaded bytes; sizes in pixels."""

    digest: str
    width: int
    height: int
    mllm: MllmImage
    vision: Prepared

    @property
    def nbytes(self) -> int:
        """Bytes it holds in memory."""
        return self.mllm.content.nbytes + self.vision.pixels.nbytes


@dataclass(frozen=True, slots=True)
class ImagePreparer:
    """Makes `PreparedImage`s for one bundle.

    `image_size` is S, the side of the vision encoder's square; `fit` how an image comes to fill it; `content` makes
    what the language model's servers get of one that has its size.
    """

    mllm: MllmImageConfig
    image_size: int
    fit: Fit = "corner"
    content: Callable[[Image.Image], Content] = as_bitmap

    def prepare(self, image: Image.Image, digest: str) -> PreparedImage:
        """Both forms of an upright RGB image. Blocking: call it in a worker thread. Raises `ImageRejected`."""
        return PreparedImage(
            digest,
            image.width,
            image.height,
            prepare_image(image, digest, self.mllm, self.content),
            prepare(np.asarray(image), self.image_size, self.fit),
        )
