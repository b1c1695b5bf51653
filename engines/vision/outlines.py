"""Outlines: where masks begin and end in a picture's columns, from logits far coarser than the picture.

A pixel is a mean of the few logits around it, none of them with a negative weight: where these lie on one side of
the threshold, so does the pixel. Arithmetic is needed only along the outline, which is short beside the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

PIXELS_AT_ONCE = 1 << 16  # of the outline; what bounds the memory that a mask full of holes takes

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Mixing:
    """How each pixel of a column is mixed from the column's `cells` logits.

    Pixel y is the sum of `weights[:, y]` times the three logits from `first[y]` on. `begin[k] <= y < end[k]` are
    the pixels whose logits, together with those of the pixel above, lie on both sides of the border between
    logits k and k + 1.
    """

    cells: int
    first: Indices  # [H]
    weights: Floats  # [3, H]
    begin: Indices  # [cells - 1]
    end: Indices  # [cells - 1]

    @property
    def pixels(self) -> int:
        """H, the length of a column."""
        return self.first.size

    def values(self, columns: Floats, column: Indices, y: Indices) -> Floats:
        """The pixels (`column`, `y`), broadcast against each other, of columns [N, cells]."""
        logits, at = columns.reshape(-1), column * self.cells + self.first.take(y)
        one, two, three = (w.take(y) * logits[k:].take(at) for k, w in enumerate(self.weights))
        mixed: Floats = one + two + three
        return mixed


def run_lengths(
    logits: Floats, size: tuple[int, int], original: tuple[int, int], corner: tuple[int, int]
) -> list[NDArray[np.int64]]:
    """The masks [H, W] of what is above 0 in logits [B, 4g, 4g], as COCO's uncompressed run lengths.

    The arguments are those of `masks.finish`. The B masks are dealt with as one picture, side by side.
    """
    height, width = original
    columns = across(logits, size, width, corner[1])
    mixing = down(logits.shape[-1], max(size), corner[0], size[0], height)
    turns = np.concatenate([_at_tops(columns, mixing, width), *_within(columns, mixing)])
    turns.sort(kind="stable")  # both parts are in order
    bounds = np.arange(len(logits) + 1) * (height * width)
    parts = np.split(turns, np.searchsorted(turns, bounds[1:-1]))
    return [
        np.diff(part, prepend=start, append=stop)
        for part, start, stop in zip(parts, bounds[:-1], bounds[1:], strict=True)
    ]


def across(logits: Floats, size: tuple[int, int], width: int, left: int) -> Floats:
    """Logits [B, cells, cells] over the padded square to a column for each of B * W pixels, [B * W, cells].

    As SAM: bilinear to the square's pixels, padding cut off, bilinear to the picture.
    """
    batch, cells, square = len(logits), logits.shape[-1], max(size)
    columns = np.empty((batch, width, cells), np.float32)
    for one, out in zip(logits, columns, strict=True):
        wide = cv2.resize(np.ascontiguousarray(one.T), (cells, square), interpolation=cv2.INTER_LINEAR)
        cv2.resize(wide[left : left + size[1]], (cells, width), dst=out, interpolation=cv2.INTER_LINEAR)
    return columns.reshape(batch * width, cells)


@lru_cache(maxsize=32)
def down(cells: int, square: int, top: int, valid: int, pixels: int) -> Mixing:
    """The same two steps along a column, in one: `cells` to `square`, from `top` on `valid` of these to `pixels`.

    There are three cells at least, and no more than the square has pixels.
    """
    near, far_share = _neighbours(valid, pixels)
    far = np.minimum(near + 1, valid - 1)
    cell, next_share = _neighbours(cells, square)
    first = np.minimum(cell[top + near], cells - 3)
    weights = np.zeros((3, pixels))
    for step, share in ((top + near, 1 - far_share), (top + far, far_share)):
        for k in range(3):
            weights[k] += share * (1 - next_share[step]) * (cell[step] == first + k)
            weights[k] += share * next_share[step] * (cell[step] + 1 == first + k)
    last = first + np.where(weights[2] > 0, 2, 1)
    border = np.arange(cells - 1)
    begin = np.maximum(np.searchsorted(last, border + 1), 1)
    end = np.minimum(np.searchsorted(first, border, side="right") + 1, pixels)
    return Mixing(cells, first, weights.astype(np.float32), begin, end)


def _neighbours(source: int, target: int) -> tuple[Indices, NDArray[np.float64]]:
    """Bilinear, corners not aligned: the sample of `source` before each of `target`, and the next one's share."""
    at = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    before = at.astype(np.intp)
    return before, at - before


def _at_tops(columns: Floats, mixing: Mixing, width: int) -> Indices:
    """The columns' first pixels that differ from the pixel before, the last of the column before.

    Before a mask's first column all is outside.
    """
    column = np.arange(len(columns))
    top, bottom = (mixing.values(columns, column, np.array([y])) > 0 for y in (0, mixing.pixels - 1))
    before = np.roll(bottom, 1)
    before[::width] = False
    return np.flatnonzero(top != before) * mixing.pixels


def _within(columns: Floats, mixing: Mixing) -> Iterator[Indices]:
    """All other pixels that differ from the pixel above them."""
    inside = (columns > 0).reshape(-1)
    column, border = np.divmod(np.flatnonzero(inside[1:] != inside[:-1]), mixing.cells)
    real = border < mixing.cells - 1  # not between two columns
    column, border = column[real], border[real]
    begin, end = mixing.begin[border], mixing.end[border]
    overlap = column[1:] == column[:-1]
    begin[1:][overlap] = np.maximum(begin[1:], end[:-1])[overlap]
    some = begin < end
    column, begin, end = column[some], begin[some], end[some]
    parts = np.flatnonzero(np.diff(np.cumsum(end - begin) // PIXELS_AT_ONCE)) + 1
    for part in zip(*(np.split(values, parts) for values in (column, begin, end)), strict=True):
        yield _turns(columns, mixing, *part)


def _turns(columns: Floats, mixing: Mixing, column: Indices, begin: Indices, end: Indices) -> Indices:
    """Those of the pixels `begin` to `end`, of each `column`, that differ from the pixel above them."""
    length = end - begin + 1  # with the pixel above the first
    offset = np.cumsum(length) - length
    column = np.repeat(column, length)
    y = np.arange(column.size) + np.repeat(begin - 1 - offset, length)
    inside = mixing.values(columns, column, y) > 0
    turned = np.diff(inside, prepend=False)
    turned[offset] = False
    turns: Indices = column[turned] * mixing.pixels + y[turned]
    return turns
