"""Training's points lie on (or off) the objects, and its boxes around what shows of them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engines.demo.scenes import render_scene
from engines.demo.training.clicks import LEAST_CELLS, STRIDE, click
from engines.demo.training.samples import SceneSample, make_sample
from engines.vision.visual_prompt import BOX_MIN, NEGATIVE, NOT_A_POINT, POSITIVE


@pytest.fixture(scope="module")
def samples() -> list[SceneSample]:
    return [make_sample(render_scene(seed, longest=200)) for seed in (3, 4)]


def test_clicks_fall_where_their_labels_say(samples: list[SceneSample]) -> None:
    objects = [(owner, i) for owner, sample in enumerate(samples) for i in range(len(sample.modal))]
    met = set[int]()
    for seed in range(30):
        clicks = click(samples, objects, random.Random(seed))
        assert clicks.points.shape == (*clicks.labels.shape, 2)
        for owner, index, points, labels in zip(
            clicks.owners, clicks.objects, clicks.points, clicks.labels, strict=True
        ):
            seen = samples[owner].modal[index] / 255
            for place, label in zip(points, labels, strict=True):
                x, y = (place // STRIDE).astype(int)
                if label == POSITIVE:
                    assert seen[y, x] > 0.75
                if label == NEGATIVE:
                    assert seen[y, x] < 0.8
                    assert (place < samples[owner].size[::-1]).all()
                met.add(int(label))
    assert met >= {POSITIVE, NEGATIVE, NOT_A_POINT, BOX_MIN}


def test_boxes_hold_what_shows(samples: list[SceneSample]) -> None:
    found = 0
    for seed in range(20):
        clicks = click(samples, [(0, 0), (1, 0)], random.Random(seed))
        for owner, points, labels in zip(clicks.owners, clicks.points, clicks.labels, strict=True):
            if BOX_MIN not in labels:
                continue
            first, last = points[-2], points[-1]
            rows, columns = np.nonzero(samples[owner].modal[0] > 220)
            corners = STRIDE * np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            slack = 0.06 * (last - first).max() + STRIDE
            assert np.abs(np.concatenate([first, last]) - corners).max() <= slack
            found += 1
    assert found > 5


def test_what_hardly_shows_is_not_clicked() -> None:
    sample = make_sample(render_scene(5, longest=200))
    sample.modal[0][:] = 0
    sample.modal[0].flat[: LEAST_CELLS - 1] = 255
    assert len(click([sample], [(0, 0)], random.Random(0)).owners) == 0
