"""Visual prompts: a box and points in a picture, and the same as SAM's prompt encoder takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.errors import InvalidInput

NOT_A_POINT, NEGATIVE, POSITIVE, BOX_MIN, BOX_MAX = -1, 0, 1, 2, 3

Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True, slots=True)
class Point:
    """A place (x, y) in pixels of the picture, on the object or, with `positive` False, off it."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class SparsePrompt:
    """`points` float32 [P, 2] as (x, y) in pixels of the padded square; `labels` int64 [P], see `NOT_A_POINT`."""

    points: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class VisualPrompt:
    """A box around the object, points on and off it, or both; in pixels of the picture."""

    box: Box | None = None
    points: tuple[Point, ...] = ()

    def check(self, width: int, height: int) -> None:
        """Raises `InvalidInput` naming the first point or corner outside a picture of this size."""
        for name, x, y in self._places():
            if not (0 <= x <= width and 0 <= y <= height):
                raise InvalidInput(f"{name}: ({x:g}, {y:g}) is outside the image, {width} × {height} pixels")

    def sparse(
        self, original: tuple[int, int], size: tuple[int, int], corner: tuple[int, int] = (0, 0)
    ) -> SparsePrompt:
        """The prompt for a picture of `original` (H, W) that became `size` (h, w) in the padded square.

        It begins at `corner`, (top, left). As segment-anything: points, then the box's corners; points without a
        box get one `NOT_A_POINT`.
        """
        scale = np.array([size[1] / original[1], size[0] / original[0]], dtype=np.float32)
        places = [(point.x, point.y) for point in self.points]
        labels = [POSITIVE if point.positive else NEGATIVE for point in self.points]
        if self.box is None:
            places, labels = [*places, (0.0, 0.0)], [*labels, NOT_A_POINT]
        else:
            places, labels = [*places, self.box[:2], self.box[2:]], [*labels, BOX_MIN, BOX_MAX]
        begin = np.array([corner[1], corner[0]], dtype=np.float32)
        return SparsePrompt(
            np.array(places, dtype=np.float32) * scale + begin, np.array(labels, dtype=np.int64)
        )

    def _places(self) -> Iterator[tuple[str, float, float]]:
        if self.box is not None:
            yield ("box", *self.box[:2])
            yield ("box", *self.box[2:])
        for number, point in enumerate(self.points):
            yield f"points.{number}", point.x, point.y
