"""Uploaded bytes to an upright RGB image, by safe decoders only, or a refusal that names the fault."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, UnidentifiedImageError

from engines.cache.single_flight import SingleFlightCache
from engines.errors import ImageRejected
from engines.images import PreparedImage
from engines.upright import DAMAGE, turn_of

MEGA = 1_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_ASPECT_RATIO = 100
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"RIFF", b"BM")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """`max_bytes` of the upload, `max_pixels` of the decoded image."""

    max_bytes: int = 20 * MEGA
    max_pixels: int = 40 * MEGA


def digest_of(data: bytes) -> str:
    """``sha256:<hex>`` of the uploaded bytes: the image's id."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The upright RGB image in `data`; transparent pixels come out on white, 16-bit ones are scaled to 8.

    Blocking: call it in a worker thread. The size is checked before a pixel is decoded.

    Raises:
        ImageRejected: ``too_many_bytes``, ``not_an_image``, ``too_many_pixels``, ``aspect_ratio``, ``animated``,
            ``truncated`` or ``damaged``.
    """
    if not data:
        raise ImageRejected("not_an_image", "the image is empty")
    if len(data) > limits.max_bytes:
        raise too_many_bytes(limits)
    try:
        image = _open(data, limits)
        _check_shape(image, limits)
        image.load()
        rgb = _to_rgb(image)
    except DAMAGE as error:
        raise _damaged(data, error) from error
    turn = turn_of(image)
    return rgb if turn is None else rgb.transpose(turn)


def too_many_bytes(limits: ImageLimits) -> ImageRejected:
    """The refusal of an upload that is larger than it may be."""
    return ImageRejected("too_many_bytes", f"the image is larger than {limits.max_bytes / MEGA:g} MB")


class ImageLoader:
    """Decodes and prepares images in `executor`; a known image is not decoded again."""

    def __init__(
        self,
        prepare: Callable[[Image.Image, str], PreparedImage],
        limits: ImageLimits,
        executor: Executor,
        capacity: int,
    ) -> None:
        self._prepare = prepare
        self._limits = limits
        self._executor = executor
        self._known: SingleFlightCache[PreparedImage] = SingleFlightCache(
            capacity, lambda image: image.nbytes
        )

    async def load(self, data: bytes, digest: str | None = None) -> PreparedImage:
        """The image as the engines take it; `digest` where it is known. Raises `ImageRejected` as `decode`."""
        loop = asyncio.get_running_loop()
        if digest is None:
            digest = await loop.run_in_executor(self._executor, digest_of, data)
        decode = partial(self._decode, data, digest)
        return await self._known.get_or_make(digest, lambda: loop.run_in_executor(self._executor, decode))

    def forget(self, digest: str) -> None:
        """Remember an image no longer."""
        self._known.discard(digest)

    def _decode(self, data: bytes, digest: str) -> PreparedImage:
        return self._prepare(decode(data, self._limits), digest)


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read the header, with the decoders of `FORMATS` only."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(limits) from error
    except UnidentifiedImageError as error:
        if data.startswith(SIGNATURES):
            raise ImageRejected("damaged", "the image is damaged: its header cannot be read") from error
        names = ", ".join(FORMATS)
        raise ImageRejected("not_an_image", f"this is not an image of a known format ({names})") from error


def _check_shape(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise _too_many_pixels(limits)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageRejected("aspect_ratio", f"one side is more than {MAX_ASPECT_RATIO} times the other")
    # a phone's multi-picture JPEG counts frames too, but its first one is the photo
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ImageRejected("animated", "animated images are not supported: send one frame")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        painted = image if image.mode == "RGBA" else image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(painted, mask=painted.getchannel("A"))
        return rgb
    return image if image.mode == "RGB" else image.convert("RGB")


def _too_many_pixels(limits: ImageLimits) -> ImageRejected:
    return ImageRejected(
        "too_many_pixels", f"the image has more than {limits.max_pixels / MEGA:g} megapixels"
    )


def _damaged(data: bytes, error: Exception) -> ImageRejected:
    """Pillow says "truncated" in so many words, but for WebP; there the header tells how long the file is."""
    cut = data[:4] == b"RIFF" and len(data) < 8 + int.from_bytes(data[4:8], "little")
    if cut or "truncated" in str(error).lower():
        return ImageRejected("truncated", "the image is truncated: its data ends too early")
    return ImageRejected("damaged", "the image is damaged: its data cannot be decoded")
