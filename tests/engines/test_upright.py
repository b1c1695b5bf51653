"""Which way up an image is: data sets and the server must agree, and both with browsers."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from engines.evaluation.datasets.files import parse_picture

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'


def saved(**options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40)).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_has_the_size_that_it_is_shown_in(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    shape = (60, 40) if orientation in (5, 6, 7, 8) else (40, 60)
    assert parse_picture(saved(exif=exif), "here").shape == shape


@pytest.mark.parametrize("options", [{"xmp": XMP}, {"exif": b"Exif\x00\x00garbage"}])
def test_what_is_no_exif_turns_nothing(options: dict[str, bytes]) -> None:
    assert parse_picture(saved(**options), "here").shape == (40, 60)


def test_a_png_may_say_it_after_its_pixels() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (60, 40)).save(file, "PNG", exif=exif)
    data = file.getvalue()
    begin = data.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(data[begin : begin + 4])
    late = data[:begin] + data[end:-12] + data[begin:end] + data[-12:]
    assert parse_picture(data, "here").shape == parse_picture(late, "here").shape == (60, 40)
