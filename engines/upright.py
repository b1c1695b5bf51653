"""Which way up an encoded image is: by its EXIF block alone, as in browsers. XMP is not asked, as Pillow would."""

from __future__ import annotations

import struct

from PIL import Image

ORIENTATION = 0x0112  # EXIF tag
TURNS = {  # EXIF 2.32, table 6: what makes an image of that orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)
"""What Pillow's decoders raise for damaged data."""


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What makes the image upright; a block that cannot be read says nothing.

    A PNG may have it after the pixels, so one that has none before them is decoded. Raises what decoders raise.
    """
    if image.format == "PNG" and "exif" not in image.info:
        image.load()
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return TURNS.get(exif.get(ORIENTATION, 1))
    except DAMAGE:
        return None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once it is upright. Raises as `turn_of`."""
    aside = turn_of(image) in {TURNS[number] for number in (5, 6, 7, 8)}
    return (image.height, image.width) if aside else image.size
