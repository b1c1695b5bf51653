"""Masks as annotation files hold them: polygons, run-length codes (compressed or not) and PNG pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco

from engines.evaluation.metrics import Mask

LONGEST_RUN = 6  # characters of five bits each: a longer one is more than pycocotools' 32 bits can hold


class BadMask(ValueError):
    """An annotation is no mask of the picture; the message says why."""


def to_mask(segmentation: Any, shape: tuple[int, int], *, may_be_empty: bool = False) -> Mask:
    """The mask [H, W] of a COCO segmentation: one polygon, a list of them, or a run-length code.

    A polygon is a flat list x, y, x, y, … in pixels.

    Raises:
        BadMask: it is none of these, is of another size than `shape`, or has no pixel and must have one.
    """
    mask = _from_code(segmentation, shape) if isinstance(segmentation, dict) else _fill(segmentation, shape)
    if not may_be_empty and not mask.any():
        raise BadMask("the mask has no pixel")
    return mask


def check_points(xs: Any, ys: Any, shape: tuple[int, int]) -> None:
    """See that points belong to a picture; what is drawn may go beyond its edge, but not by more than its size.

    Raises:
        BadMask: a point is further away, or is none.
    """
    for values, length in ((ys, shape[0]), (xs, shape[1])):
        if not all(-length <= value <= 2 * length for value in values):
            raise BadMask(f"a point is far outside the picture, which is {shape}")


def _fill(segmentation: Any, shape: tuple[int, int]) -> Mask:
    if not isinstance(segmentation, list) or not segmentation:
        raise BadMask("the segmentation is neither polygons nor a run-length code")
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    for polygon in polygons:
        _check_polygon(polygon, shape)
    codes = coco.frPyObjects(polygons, *shape)
    return _decode(coco.merge(cast("Any", codes)))


def from_png(path: Path, shape: tuple[int, int]) -> Mask:
    """The mask [H, W] in a picture file: what is not 0 is inside.

    Raises:
        BadMask: the file is not there, no picture, or of another size than `shape`.
    """
    try:
        with Image.open(path) as opened:
            values = np.asarray(
                opened if opened.mode in ("1", "L", "P", "I", "I;16") else opened.convert("L")
            )
    except FileNotFoundError:
        raise BadMask(f"the mask {path.name} is not there") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadMask(f"the mask {path.name} cannot be read: {error}") from error
    if values.shape != shape:
        raise BadMask(f"the mask {path.name} is {values.shape}, the picture {shape}")
    return np.asarray(values != 0, dtype=np.bool_)


def _check_polygon(polygon: Any, shape: tuple[int, int]) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise BadMask("a polygon needs three points or more, as x, y, x, y, …")
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in polygon):
        raise BadMask("a polygon holds something that is not a number")
    check_points(polygon[::2], polygon[1::2], shape)


def _from_code(code: dict[str, Any], shape: tuple[int, int]) -> Mask:
    size, counts = code.get("size"), code.get("counts")
    if not isinstance(size, list) or tuple(size) != shape:
        raise BadMask(f"the run-length code is of size {size}, the picture {list(shape)}")
    if isinstance(counts, list):
        if (
            any(not isinstance(each, int) or each < 0 for each in counts)
            or sum(counts) != shape[0] * shape[1]
        ):
            raise BadMask("the run lengths do not add up to the picture")
        return _decode(coco.frPyObjects(cast("Any", {"size": list(shape), "counts": counts}), *shape))
    if not isinstance(counts, str):
        raise BadMask("the run-length code has no counts")
    if sum(_runs(counts)) != shape[0] * shape[1]:
        raise BadMask("the run lengths do not add up to the picture")
    return _decode({"size": list(shape), "counts": counts.encode("ascii")})


def _runs(counts: str) -> list[int]:
    """The run lengths in COCO's compressed text: five bits a character, from the third on as differences.

    pycocotools trusts the text; a wrong one must not reach it.
    """
    runs: list[int] = []
    value = shift = 0
    longest = 5 * LONGEST_RUN
    for letter in counts:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise BadMask("the run-length code holds characters that do not belong there")
        value |= (bits & 31) << shift
        shift += 5
        if shift > longest:
            raise BadMask("the run-length code holds a run without end")
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            raise BadMask("the run-length code holds a negative run")
        value = shift = 0
    if shift:
        raise BadMask("the run-length code breaks off")
    return runs


def _decode(code: Any) -> Mask:
    return cast("Mask", coco.decode(code).view(np.bool_))
