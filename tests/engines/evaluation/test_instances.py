"""AP and AR against a plain computation, and against COCO's evaluation used as its users do, through files."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engines.evaluation.metrics import InstanceScores, Mask, Query, ciou, fuse, overlap, score_instances
from engines.vision.masks import decode, encode

THRESHOLDS = [0.5 + 0.05 * step for step in range(10)]
Masks = list[Mask]

mask_lists = st.lists(arrays(np.bool_, (3, 4)).filter(np.any), max_size=3)
query_lists = st.lists(st.tuples(mask_lists, mask_lists), min_size=1, max_size=4)


def query(truths: Masks, predictions: Masks, scores: list[float] | None = None) -> Query:
    """Masks as a query; equal scores unless told."""
    wanted, found = (tuple(encode(mask).rle for mask in masks) for masks in (truths, predictions))
    return Query(wanted, found, tuple(scores or [1.0] * len(predictions)))


def plain_iou(one: Mask, other: Mask) -> float:
    """IoU by counting."""
    return float((one & other).sum() / (one | other).sum())


def plain_match(truths: Masks, predictions: Masks, threshold: float) -> list[bool]:
    """Whether each prediction, best first, finds a free truth: the one that fits it best, the last of equals."""
    free, hits = list(range(len(truths))), []
    for prediction in predictions:
        fitting = [n for n in free if plain_iou(prediction, truths[n]) >= min(threshold, 1 - 1e-10)]
        best = max(fitting, key=lambda n: (plain_iou(prediction, truths[n]), n), default=None)
        hits.append(best is not None)
        if best is not None:
            free.remove(best)
    return hits


def plain_ap(queries: list[tuple[Masks, Masks]], scores: list[list[float]], threshold: float) -> float:
    """Precision at 101 recalls, made monotonic, over all predictions in the order of their scores."""
    truths = sum(len(wanted) for wanted, _ in queries)
    ranked = []
    for (wanted, found), marks in zip(queries, scores, strict=True):
        order = sorted(range(len(found)), key=lambda n: -marks[n])
        hits = plain_match(wanted, [found[n] for n in order], threshold)
        ranked += [(marks[n], hit) for n, hit in zip(order, hits, strict=True)]
    ranked.sort(key=lambda pair: -pair[0])
    points, right = [], 0
    for place, (_, hit) in enumerate(ranked, 1):
        right += hit
        points.append((right / truths, right / place))
    levels = np.linspace(0, 1, 101)
    return float(np.mean([max((p for r, p in points if r >= level), default=0.0) for level in levels]))


@given(query_lists, st.randoms(use_true_random=False))
def test_ap_is_the_plain_one(queries: list[tuple[Masks, Masks]], source: object) -> None:
    total = sum(len(found) for _, found in queries)
    marks = [(n + 1) / (total + 1) for n in range(total)]
    source.shuffle(marks)  # type: ignore[attr-defined]
    scores = [[marks.pop() for _ in found] for _, found in queries]
    found = score_instances([query(*each, marks) for each, marks in zip(queries, scores, strict=True)])
    if not any(wanted for wanted, _ in queries):
        assert found == InstanceScores(None, None, None, None, None, None, None)
        return
    assert found.ap == pytest.approx(np.mean([plain_ap(queries, scores, t) for t in THRESHOLDS]))
    assert found.ap50 == pytest.approx(plain_ap(queries, scores, 0.5))
    assert found.ap75 == pytest.approx(plain_ap(queries, scores, 0.75))
    assert found.ap_small == found.ap  # 12 pixels are small
    assert (found.ap_medium, found.ap_large) == (None, None)


def random_queries(count: int) -> list[Query]:
    """Queries of 200 × 300 pixels with up to three boxes, found more or less well, some of them not there."""
    source = np.random.default_rng(5)
    queries = []
    for _ in range(count):
        truths, predictions = [], []
        for _ in range(source.integers(0, 4)):
            y, x, side = source.integers(0, 100), source.integers(0, 150), source.integers(8, 140)
            mask = np.zeros((200, 300), dtype=np.bool_)
            mask[y : y + side, x : x + side] = True
            truths.append(mask)
            if source.random() < 0.8:
                predictions.append(np.roll(mask, source.integers(0, side // 3 + 1), axis=1))
        if source.random() < 0.2:
            predictions.append(np.ones((200, 300), dtype=np.bool_))
        queries.append(query(truths, predictions, [float(source.random()) for _ in predictions]))
    return queries


def test_the_figures_are_those_of_cocoeval_used_directly(tmp_path: Path) -> None:
    queries = random_queries(60)
    images = [{"id": n, "height": 200, "width": 300} for n in range(1, 61)]
    truths: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for number, each in enumerate(queries, 1):
        for code in each.truths:
            entry: dict[str, object] = {
                "id": len(truths) + 1,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
            }
            truths.append({**entry, "area": int(decode(code).sum()), "segmentation": dict(code)})
        for code, score in zip(each.predictions, each.scores, strict=True):
            place = {"image_id": number, "category_id": 1}
            results.append({**place, "segmentation": dict(code), "score": score})
    file = tmp_path / "truths.json"
    file.write_text(json.dumps({"images": images, "annotations": truths, "categories": [{"id": 1}]}))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(file))
        direct = COCOeval(known, known.loadRes(str(tmp_path / "results.json")), "segm")
        direct.params.useCats = 0
        direct.evaluate()
        direct.accumulate()
        direct.summarize()
    found = score_instances(queries)
    ours = [found.ap, found.ap50, found.ap75, found.ap_small, found.ap_medium, found.ap_large]
    assert ours == pytest.approx(list(direct.stats[:6]))
    assert found.ar == pytest.approx(direct.stats[8])
    assert 0.1 < direct.stats[0] < 0.9  # neither side is trivially right


def squares() -> Masks:
    """Two squares of 40 × 40 pixels, side by side."""
    masks = [np.zeros((60, 120), dtype=np.bool_) for _ in range(2)]
    masks[0][10:50, 10:50] = True
    masks[1][10:50, 50:90] = True
    return masks


def test_a_perfect_an_empty_and_a_shifted_predictor() -> None:
    perfect = score_instances([query(squares(), squares())])
    assert (perfect.ap, perfect.ap50, perfect.ap75, perfect.ar) == (1.0, 1.0, 1.0, 1.0)
    assert (perfect.ap_small, perfect.ap_medium, perfect.ap_large) == (None, 1.0, None)
    empty = score_instances([query(squares(), [])])
    assert (empty.ap, empty.ap50, empty.ar) == (0.0, 0.0, 0.0)
    # Moved by 8 of 40 columns: IoU = 32 / 48 = 0.667, right for the thresholds 0.5 to 0.65, which are four of ten.
    shifted = score_instances([query([squares()[0]], [np.roll(squares()[0], 8, axis=1)])])
    assert [shifted.ap50, shifted.ap75] == pytest.approx([1.0, 0.0])
    assert [shifted.ap, shifted.ar] == pytest.approx([0.4, 0.4])


def test_the_fused_mask_may_be_right_where_the_instances_are_wrong() -> None:
    """R2SM's example of what the fused IoUs hide: one mask over both objects, and parts split elsewhere."""
    truths = squares()
    both = fuse(truths, (60, 120))
    rows = [both.copy(), both.copy()]
    rows[0][30:] = False  # the upper half of both objects, the lower half of both
    rows[1][:30] = False
    for predictions in ([both], rows):
        assert ciou([overlap(fuse(predictions, both.shape), both)]) == 1.0
        found = score_instances([query(truths, predictions)])
        assert found.ap is not None
        assert found.ap50 is not None
        assert found.ap <= 0.06
    assert score_instances([query(truths, rows)]).ap50 == 0.0  # each row has an IoU of 1/3 with each object


def test_a_mask_where_nothing_is_wanted_is_a_false_one() -> None:
    right = query(squares(), squares(), [0.5, 0.5])
    false = query([], [squares()[0]], [0.9])
    found = score_instances([right, false])
    assert found.ap50 == pytest.approx(2 / 3, abs=0.01)  # the surest of three is wrong
