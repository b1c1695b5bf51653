"""Uploaded images: every kind is handled or refused by name, and nothing else ever comes out."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engines.errors import ImageRejected
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.image import MllmImageConfig
from server.images import ImageLimits, ImageLoader, decode, digest_of

LIMITS = ImageLimits()
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 255 // width, rows * 255 // height, 0 * rows + 128], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def reason(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(ImageRejected) as caught:
        decode(data, limits)
    return caught.value.reason


@pytest.mark.parametrize("format", FORMATS)
def test_plain_images(format: str) -> None:
    image = decode(saved(gradient(), format), LIMITS)
    assert (image.mode, image.size) == ("RGB", (60, 40))
    tolerance = {"JPEG": 12, "WEBP": 24, "GIF": 40}.get(format, 0)
    assert np.abs(np.asarray(image, int) - np.asarray(gradient(), int)).mean() <= tolerance


def test_grey_and_black_and_white() -> None:
    grey = gradient().convert("L")
    for image in (grey, grey.convert("1")):
        assert decode(saved(image, "PNG"), LIMITS).tobytes() == image.convert("RGB").tobytes()


def test_cmyk() -> None:
    image = decode(saved(gradient().convert("CMYK"), "JPEG", quality=95), LIMITS)
    assert np.abs(np.asarray(image, int) - np.asarray(gradient(), int)).mean() < 8


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 60 * 40).reshape(40, 60).astype(np.uint16)
    image = np.asarray(decode(saved(Image.fromarray(ramp), "PNG"), LIMITS))
    assert np.array_equal(image[..., 0], ramp >> 8)
    assert (image[..., 0] == image[..., 2]).all()


def test_palette_with_a_transparent_colour_comes_out_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((1, 1), 1)
    decoded = decode(saved(image, "PNG", transparency=0), LIMITS)
    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_come_out_on_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    image.putpixel((1, 1), (0, 0, 0, 255) if mode == "RGBA" else (0, 255))
    decoded = decode(saved(image, "PNG"), LIMITS)
    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((1, 1)) == (0, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = gradient(60, 40)
    decoded = decode(saved(stored, "PNG", exif=exif), LIMITS)
    assert decoded.size == ((60, 40) if orientation < 5 else (40, 60))
    corner = np.asarray(stored)[[0, 0, -1, -1, 0, -1, -1, 0], [0, -1, -1, 0, 0, 0, -1, -1]][orientation - 1]
    assert np.array_equal(np.asarray(decoded)[0, 0], corner), (
        "the EXIF 0th row and column are the upright's corner"
    )


def test_only_exif_turns_an_image() -> None:
    """XMP says it in many files, too, but browsers do not heed it there."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    data = saved(gradient(), "JPEG", xmp=xmp)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert decode(data, LIMITS).size == (60, 40)


@pytest.mark.parametrize(
    "exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00"]
)
def test_damaged_exif_does_not_matter(exif: bytes) -> None:
    assert decode(saved(gradient(), "JPEG", exif=exif), LIMITS).size == (60, 40)


def test_a_phones_multi_picture_jpeg_is_its_first_picture() -> None:
    data = saved(gradient(), "MPO", save_all=True, append_images=[gradient().rotate(90)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert decode(data, LIMITS).size == (60, 40)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_animated_images_are_refused_by_name(format: str) -> None:
    frames = [gradient().rotate(turn) for turn in (90, 180)]
    assert reason(saved(gradient(), format, save_all=True, append_images=frames)) == "animated"


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"%PDF-1.7", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bytes(99)]
)
def test_what_is_not_an_image(data: bytes) -> None:
    assert reason(data) == "not_an_image"


@pytest.mark.parametrize("format", ["TIFF", "ICO", "PPM", "PCX", "TGA"])
def test_other_decoders_are_not_even_tried(format: str) -> None:
    assert reason(saved(gradient(), format)) == "not_an_image"


@pytest.mark.parametrize("format", FORMATS)
def test_truncated_images(format: str) -> None:
    data = saved(gradient(300, 200), format)
    assert reason(data[: len(data) // 2]) == "truncated"


def test_damaged_pixels() -> None:
    data = bytearray(saved(gradient(300, 200), "PNG"))
    start = data.index(b"IDAT") + 4
    data[start : start + 8] = b"not zlib"
    assert reason(bytes(data)) == "damaged"


def bomb(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(6_325, 6_325), (10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs(size: tuple[int, int]) -> None:
    assert reason(bomb(*size)) == "too_many_pixels"


def test_the_most_pixels_are_allowed() -> None:
    limits = ImageLimits(max_pixels=60 * 40)
    assert decode(saved(gradient(60, 40), "PNG"), limits).size == (60, 40)
    assert reason(saved(gradient(61, 40), "PNG"), limits) == "too_many_pixels"


def test_a_bomb_in_a_text_chunk_is_not_inflated() -> None:
    body = b"comment\0\0" + zlib.compress(bytes(30_000_000))
    text = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    data = saved(gradient(), "PNG")
    end = data.index(b"IDAT") - 4
    assert reason(data[:end] + text + data[end:]) == "damaged"


def test_the_largest_file_is_allowed() -> None:
    data = saved(gradient(), "PNG")
    assert decode(data, ImageLimits(max_bytes=len(data))).size == (60, 40)
    assert reason(data, ImageLimits(max_bytes=len(data) - 1)) == "too_many_bytes"


def test_strips_are_refused() -> None:
    assert reason(saved(gradient(303, 3), "PNG")) == "aspect_ratio"
    assert decode(saved(gradient(300, 3), "PNG"), LIMITS).size == (300, 3)


def test_one_pixel_is_an_image() -> None:
    image = decode(saved(gradient(1, 1), "PNG"), LIMITS)
    prepared = ImagePreparer(MllmImageConfig(), 64).prepare(image, "sha256:0")
    assert (prepared.width, prepared.height, prepared.vision.size) == (1, 1, (64, 64))


SAMPLES = {format: saved(gradient(), format) for format in FORMATS}


@given(st.sampled_from(FORMATS), st.data())
def test_damage_anywhere_is_refused_or_survived(format: str, data: st.DataObject) -> None:
    damaged = bytearray(SAMPLES[format])
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    try:
        image = decode(bytes(damaged), ImageLimits(max_pixels=100_000))
    except ImageRejected:
        return
    assert image.mode == "RGB"


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_decoded(data: bytes) -> None:
    try:
        image = decode(data, LIMITS)
    except ImageRejected:
        return
    assert image.mode == "RGB"


async def test_a_known_image_is_not_decoded_again() -> None:
    preparer = ImagePreparer(MllmImageConfig(), 64)
    prepared: list[str] = []

    def prepare(image: Image.Image, digest: str) -> PreparedImage:
        prepared.append(digest)
        return preparer.prepare(image, digest)

    data = saved(gradient(), "PNG")
    with ThreadPoolExecutor(1) as executor:
        loader = ImageLoader(prepare, LIMITS, executor, capacity=1_000_000)
        first, second = await loader.load(data), await loader.load(data)
    assert first is second
    assert prepared == [digest_of(data)]
    assert first.digest.startswith("sha256:")
    assert len(first.digest) == 71
