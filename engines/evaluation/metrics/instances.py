"""AP and AR of instances, by COCO's own evaluation with queries in the place of pictures (R2SM, Table 3)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engines.events import Rle

CLASS = 1  # instances have no class here: all are of this one


@dataclass(frozen=True, slots=True)
class Query:
    """The instances of one query: truths, and predictions with a score each, all masks of one picture."""

    truths: tuple[Rle, ...]
    predictions: tuple[Rle, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class InstanceScores:
    """COCO's figures, 0 to 1; None where no truth is of that size.

    `ap` and `ar` are means over IoU thresholds 0.5 to 0.95; small, medium and large part at 32² and 96² pixels.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: float | None


def score_instances(queries: Sequence[Query]) -> InstanceScores:
    """AP and AR over queries, class-agnostic; predictions for a query without a truth are false ones."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        evaluation = COCOeval(_truths(queries), _predictions(queries), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
    precision: NDArray[np.float64] = evaluation.eval["precision"]  # [threshold, recall, class, size, most]
    recall: NDArray[np.float64] = evaluation.eval["recall"]  # [threshold, class, size, most]
    return InstanceScores(
        ap=_mean(precision[:, :, :, 0, -1]),
        ap50=_mean(precision[0, :, :, 0, -1]),
        ap75=_mean(precision[5, :, :, 0, -1]),
        ap_small=_mean(precision[:, :, :, 1, -1]),
        ap_medium=_mean(precision[:, :, :, 2, -1]),
        ap_large=_mean(precision[:, :, :, 3, -1]),
        ar=_mean(recall[:, :, 0, -1]),
    )


def _truths(queries: Sequence[Query]) -> COCO:
    masks = [(number, rle) for number, query in enumerate(queries) for rle in query.truths]
    return _index(queries, [_annotation(number, rle, None) for number, rle in masks])


def _predictions(queries: Sequence[Query]) -> COCO:
    masks = [
        (number, rle, score)
        for number, query in enumerate(queries)
        for rle, score in zip(query.predictions, query.scores, strict=True)
    ]
    return _index(queries, [_annotation(number, rle, score) for number, rle, score in masks])


def _annotation(number: int, rle: Rle, score: float | None) -> dict[str, Any]:
    code: Any = {"size": rle["size"], "counts": rle["counts"].encode("ascii")}
    entry: dict[str, Any] = {"image_id": number + 1, "category_id": CLASS, "iscrowd": 0, "segmentation": code}
    entry["area"] = int(coco_mask.area(code))
    return entry if score is None else {**entry, "score": score}


def _index(queries: Sequence[Query], annotations: list[dict[str, Any]]) -> COCO:
    dataset: Any = {
        # Every mask carries its own size, so pycocotools only looks for these and does not use them.
        "images": [{"id": number + 1, "height": 0, "width": 0} for number in range(len(queries))],
        "categories": [{"id": CLASS, "name": "object"}],
        "annotations": [{**entry, "id": place + 1} for place, entry in enumerate(annotations)],
    }
    index = COCO()
    index.dataset = dataset
    index.createIndex()
    return index


def _mean(values: NDArray[np.float64]) -> float | None:
    """COCO marks what has no truth by -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None
