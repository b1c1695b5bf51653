"""Forms of an answer: polygons, PNG masks, COCO results, the overlay."""

from __future__ import annotations

import base64
import io
from collections.abc import Set
from dataclasses import asdict

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.events import MaskReady
from engines.vision import masks
from server.images import ImageLimits, decode
from server.overlay import draw_overlay
from server.schemas import CocoIds, CocoResult, Extra, MaskInfo, SegmentResponse

FORMS: frozenset[Extra] = frozenset({"polygon", "png"})
PNG_LEVEL = 3  # zlib's; masks are nearly as small as with 9


def mask_info(mask: MaskReady, include: Set[Extra]) -> MaskInfo:
    """A mask for the wire, in every form that is included. Blocking where one of `FORMS` is."""
    info = MaskInfo(**asdict(mask))
    if not include & FORMS:
        return info
    pixels = masks.decode(mask.rle)
    return info.model_copy(
        update={
            "polygon": polygons(pixels) if "polygon" in include else None,
            "png_base64": base64.b64encode(_png(pixels)).decode("ascii") if "png" in include else None,
        }
    )


def polygons(mask: NDArray[np.bool_]) -> list[list[float]]:
    """The outer outlines of a mask [H, W], each [x, y, x, y, …] along the edges of its pixels.

    Outlines are taken at three times the size, where a pixel has corners, and brought back: filled again as
    pycocotools does, they give the mask, but for its holes.
    """
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    cut = np.ascontiguousarray(mask[top : top + height, left : left + width]).view(np.uint8)
    thrice = np.repeat(np.repeat(cut, 3, axis=0), 3, axis=1)
    outlines, _ = cv2.findContours(
        thrice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(3 * left, 3 * top)
    )
    return [((outline.reshape(-1) + 0.5) / 3).round(2).tolist() for outline in outlines]


def coco_results(response: SegmentResponse, ids: CocoIds | None) -> list[CocoResult]:
    """Every mask as a COCO result."""
    ids = ids or CocoIds()
    return [
        CocoResult(
            image_id=response.image.id if ids.image_id is None else ids.image_id,
            category_id=ids.category_id,
            segmentation=mask.rle,
            bbox=mask.bbox,
            score=mask.score,
        )
        for mask in response.masks
    ]


def overlay_png(data: bytes, limits: ImageLimits, response: SegmentResponse) -> bytes:
    """The masks over the image file `data`, as a PNG. Blocking."""
    buffer = io.BytesIO()
    draw_overlay(decode(data, limits), response).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def _png(mask: NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    grey.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()
