"""The image as the language model gets it: resized here exactly as its own processor would."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from PIL import Image
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from engines.errors import ImageRejected

MAX_ASPECT_RATIO = 200


class MllmImageConfig(BaseModel):
    """The language model's image size in pixels; stored in ``bundle.json`` under ``mllm_image``.

    The same numbers must stand in the bundle's ``preprocessor_config.json``: then vLLM's own processor finds
    nothing left to resize. `factor` is patch size times merge size. With `square` every image becomes one square,
    whatever its aspect, of as many pixels as are allowed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_pixels: PositiveInt = 56 * 56
    max_pixels: PositiveInt = 705_600
    factor: PositiveInt = 28
    square: bool = False

    @model_validator(mode="after")
    def _some_size_fits(self) -> MllmImageConfig:
        if self.max_pixels // self.factor**2 * self.factor**2 < self.min_pixels:
            raise ValueError(
                f"no multiple of {self.factor}² pixels from {self.min_pixels} to {self.max_pixels}"
            )
        side = math.isqrt(self.max_pixels) // self.factor * self.factor
        if self.square and side**2 < self.min_pixels:
            raise ValueError(f"no square of {self.min_pixels} to {self.max_pixels} pixels")
        return self


Payload = Mapping[str, str]
"""The part of a message that brings an image, without its type and the image's name."""


class Content(Protocol):
    """What vLLM gets of an image, under the name of its part's type; `nbytes` is what it holds in memory.

    `kept` is whether a server that has had it takes the image's name alone the next time.
    """

    @property
    def kind(self) -> Literal["image_url", "image_embeds"]: ...

    @property
    def kept(self) -> bool: ...

    @property
    def nbytes(self) -> int: ...

    async def payload(self) -> Payload: ...


@dataclass(frozen=True, slots=True)
class Bitmap:
    """The pixels, for vLLM's own image tower: `data_url` is a BMP.

    It is three times as long as a PNG, and is written and read, by two servers, in a tenth of the time.
    """

    data_url: str
    kind: Literal["image_url"] = "image_url"
    kept: Literal[True] = True

    @property
    def nbytes(self) -> int:
        """Bytes of the text."""
        return len(self.data_url)

    async def payload(self) -> Payload:
        """It is there already."""
        return {"url": self.data_url}


@dataclass(frozen=True, slots=True)
class MllmImage:
    """One image, ready to be sent: `digest` names it to vLLM, `content` is what vLLM gets of it; sizes in pixels."""

    digest: str
    content: Content = field(repr=False)
    width: int
    height: int


def smart_resize(height: int, width: int, config: MllmImageConfig) -> tuple[int, int]:
    """Height and width for the language model: multiples of `factor`, within the range of pixels.

    It is what Qwen2.5-VL's image processor would choose, wherever the processor would leave that size alone. In
    a tight range it may not: then it is the fitting size of the nearest aspect ratio, so that no image is
    resized twice. Raises ImageRejected (``aspect_ratio``) for strips that the processor refuses.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        message = f"{width}x{height}: one side is over {MAX_ASPECT_RATIO} times the other"
        raise ImageRejected("aspect_ratio", message)
    if config.square:
        side = math.isqrt(config.max_pixels) // config.factor * config.factor
        return side, side
    rows, columns = _qwen_resize(height, width, config)
    if config.min_pixels <= rows * columns <= config.max_pixels:
        return rows, columns
    return _nearest_fit(height / width, config)


def _qwen_resize(height: int, width: int, config: MllmImageConfig) -> tuple[int, int]:
    factor = config.factor
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > config.max_pixels:
        shrink = math.sqrt(height * width / config.max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < config.min_pixels:
        grow = math.sqrt(config.min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def _nearest_fit(ratio: float, config: MllmImageConfig) -> tuple[int, int]:
    """The size within the range whose height over width is nearest to `ratio`; of equals the larger one."""
    block = config.factor**2
    fewest, most = -(-config.min_pixels // block), config.max_pixels // block
    sizes = [
        (rows, min(max(round(rows / ratio), -(-fewest // rows)), most // rows))
        for rows in range(1, most + 1)
        if -(-fewest // rows) <= most // rows
    ]
    rows, columns = min(
        sizes, key=lambda size: (abs(math.log(size[0] / size[1] / ratio)), -size[0] * size[1])
    )
    return rows * config.factor, columns * config.factor


def fit_image(image: Image.Image, config: MllmImageConfig) -> Image.Image:
    """An image as the language model sees it, RGB, in its size. Raises ImageRejected as `smart_resize` does."""
    height, width = smart_resize(image.height, image.width, config)
    fitted = image.convert("RGB")
    return (
        fitted if fitted.size == (width, height) else fitted.resize((width, height), Image.Resampling.BICUBIC)
    )


def as_bitmap(image: Image.Image) -> Bitmap:
    """An image's pixels for vLLM."""
    buffer = io.BytesIO()
    image.save(buffer, format="BMP")
    return Bitmap(f"data:image/bmp;base64,{base64.b64encode(buffer.getbuffer()).decode('ascii')}")


def prepare_image(
    image: Image.Image,
    digest: str,
    config: MllmImageConfig,
    content: Callable[[Image.Image], Content] = as_bitmap,
) -> MllmImage:
    """Resize an image for the language model; blocking, so call it in a worker thread.

    `content` makes what vLLM gets of the resized one. Raises ImageRejected as `smart_resize` does.
    """
    fitted = fit_image(image, config)
    return MllmImage(digest, content(fitted), fitted.width, fitted.height)
