"""Points and boxes on the objects of training scenes, as a person would draw them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.demo.training.samples import SceneSample
from engines.vision.visual_prompt import BOX_MAX, BOX_MIN, NEGATIVE, NOT_A_POINT, POSITIVE

STRIDE = 2
"""Pixels of the padded square to a cell of a training mask."""
CLEARLY = 200
"""A cell belongs to an object from this share on, in 255ths."""
LEAST_CELLS = 6
_Places = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Clicks:
    """Prompts on objects of scenes: `owners` and `objects` [N] say on which.

    `points` float32 [N, P, 2] and `labels` int64 [N, P] are as `PromptEncoder.embed_points` takes them.
    """

    owners: NDArray[np.int64]
    objects: NDArray[np.int64]
    points: NDArray[np.float32]
    labels: NDArray[np.int64]


def click(samples: Sequence[SceneSample], wanted: Sequence[tuple[int, int]], rng: random.Random) -> Clicks:
    """One prompt for each of the `wanted` (scene, object), leaving out those that hardly show.

    All are of one length: a box or a point; or now and then a box with two points, or three points.
    """
    more = rng.random() < 0.3
    kept, points, labels = list[tuple[int, int]](), list[_Places](), list[list[int]]()
    for owner, index in wanted:
        seen = samples[owner].modal[index] >= CLEARLY
        if int(seen.sum()) < LEAST_CELLS:
            continue
        places, kinds = _boxed(seen, rng) if rng.random() < 0.4 else ([], [])
        for _ in range((2 if kinds else 3) if more else (0 if kinds else 1)):
            on = not kinds or rng.random() < 0.7
            places, kinds = (
                [_somewhere(seen == on, samples[owner].size, rng), *places],
                [POSITIVE if on else NEGATIVE, *kinds],
            )
        if BOX_MAX not in kinds:
            places, kinds = [*places, (0.0, 0.0)], [*kinds, NOT_A_POINT]
        kept.append((owner, index))
        points.append(places)
        labels.append(kinds)
    where = np.array(kept, dtype=np.int64).reshape(-1, 2)
    shape = (len(kept), 4 if more else 2)
    return Clicks(
        where[:, 0],
        where[:, 1],
        np.array(points, dtype=np.float32).reshape(*shape, 2),
        np.array(labels, dtype=np.int64).reshape(shape),
    )


def _boxed(seen: NDArray[np.bool_], rng: random.Random) -> tuple[_Places, list[int]]:
    """The box around what is seen, each side off by up to a twentieth of the box."""
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    slack = 0.05 * np.array([right - left, bottom - top])
    first = np.array([left, top]) + slack * [rng.uniform(-1, 1) for _ in range(2)]
    last = np.array([right, bottom]) + slack * [rng.uniform(-1, 1) for _ in range(2)]
    corners = [(float(x), float(y)) for x, y in (first * STRIDE, last * STRIDE)]
    return corners, [BOX_MIN, BOX_MAX]


def _somewhere(cells: NDArray[np.bool_], size: tuple[int, int], rng: random.Random) -> tuple[float, float]:
    """The middle of one of the cells inside the picture."""
    inside = np.argwhere(cells[: size[0] // STRIDE, : size[1] // STRIDE])
    row, column = inside[rng.randrange(len(inside))]
    return float(STRIDE * column + STRIDE / 2), float(STRIDE * row + STRIDE / 2)
