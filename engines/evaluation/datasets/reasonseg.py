"""ReasonSeg (Lai et al., LISA, 2023): a sentence that needs reasoning, and shapes drawn with LabelMe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engines.evaluation.datasets.fields import field, query, rows, size, text
from engines.evaluation.datasets.files import read_json, read_picture
from engines.evaluation.datasets.masks import BadMask, check_points
from engines.evaluation.metrics import Mask
from engines.evaluation.questions import Fault, FaultyData, Question, Reading

TARGET, IGNORED = 1, 2
SPLIT = "val"


class ReasonSeg:
    """A folder a split, with a JSON file beside each picture: ``text``, ``is_sentence``, ``shapes``.

    As LISA evaluates it: one modal query a picture, its first text; the shapes together are its truth, those
    labelled ``ignore`` do not count, and those labelled ``flag`` mean nothing.
    """

    def __init__(self, root: Path, split: str | None = None) -> None:
        """Raises FaultyData: there are no pictures with a JSON file beside them."""
        folder = root / (split or SPLIT)
        self._folder = folder if folder.is_dir() or split else root
        self._names = sorted(path.stem for path in self._folder.glob("*.json"))
        if not self._names:
            raise FaultyData(Fault("unreadable_file", str(self._folder), "no *.json here"))

    def pictures(self) -> Sequence[str]:
        """The names of the files."""
        return self._names

    def read(self, picture: str) -> Reading:
        """The query about one picture."""
        path = self._folder / f"{picture}.json"
        try:
            content = read_json(path)
            texts = field(content, "text", picture)
            annotated = (
                size(content, "imageHeight", "imageWidth", picture) if "imageHeight" in content else None
            )
            opened = read_picture(path.with_suffix(".jpg"), picture, annotated)
            drawn = _draw(rows(content, "shapes", picture), opened.shape, picture)
            prompt = query("".join(texts[:1]) if _are_texts(texts) else texts, picture)
        except FaultyData as error:
            return Reading(faults=(error.fault,))
        target = drawn == TARGET
        question = Question(
            label=picture,
            image=opened.data,
            shape=opened.shape,
            prompt=prompt,
            mask_type="modal",
            truths=(target,) if target.any() else (),
            names=(),
            form="sentence" if content.get("is_sentence") else "phrase",
            picture=picture,
            ignored=drawn == IGNORED,
        )
        return Reading((question,))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _draw(shapes: Sequence[Any], shape: tuple[int, int], where: str) -> Any:
    """The shapes painted as LISA's code does: large ones first, each with its outline."""
    painted = []
    for place, each in enumerate(shapes):
        one = f"{where}.shape {place}"
        label = text(each, "label", one).lower()
        if label == "flag":
            continue
        points = _points(field(each, "points", one), shape, one)
        value = IGNORED if "ignore" in label else TARGET
        painted.append((int(_fill(np.zeros(shape, dtype=np.uint8), points, 1).sum()), value, points))
    canvas = np.zeros(shape, dtype=np.uint8)
    for _, value, points in sorted(painted, key=lambda each: -each[0]):
        _fill(canvas, points, value)
    return canvas


def _points(found: Any, shape: tuple[int, int], where: str) -> Any:
    try:
        points = np.array(found, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise FaultyData(Fault("bad_mask", where, "the points are not pairs of numbers"))
    try:
        check_points(points[:, 0], points[:, 1], shape)
    except BadMask as error:
        raise FaultyData(Fault("bad_mask", where, str(error))) from error
    return points


def _fill(canvas: Any, points: Any, value: int) -> Mask:
    corners = [points.astype(np.int32)]
    cv2.polylines(canvas, corners, True, value, 1)
    cv2.fillPoly(canvas, corners, value)
    return canvas  # type: ignore[no-any-return]
