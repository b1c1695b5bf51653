"""Silhouettes and surface details of the fourteen kinds, as polygons in a unit square.

Coordinates are (x, y) in about -1..1, y pointing down. A shape is a silhouette (polygons united, minus its
holes) and details: polygons drawn on the surface in a tint of the colour or in a colour of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]  # (N, 2)
Rgb = tuple[int, int, int]

DARK: Rgb = (40, 36, 34)
PAPER: Rgb = (236, 230, 214)
FACE: Rgb = (244, 243, 238)
STEM: Rgb = (96, 66, 36)
LEAF: Rgb = (72, 128, 56)


@dataclass(frozen=True, slots=True)
class Detail:
    """A polygon on the surface: `tint` scales the object's colour unless `rgb` names one."""

    polygon: Polygon
    tint: float = 1.0
    rgb: Rgb | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """A silhouette with details; `tilt` is the largest rotation from upright, in degrees."""

    solids: Sequence[Polygon]
    holes: Sequence[Polygon] = ()
    details: Sequence[Detail] = field(default_factory=tuple)
    tilt: float = 25.0


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 40) -> Polygon:
    """An ellipse around (x, y)."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def smooth(corners: Sequence[tuple[float, float]], rounds: int = 2) -> Polygon:
    """A closed polygon with its corners cut twice (Chaikin's algorithm)."""
    points = np.asarray(corners, dtype=np.float64)
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.82 * points + 0.18 * following, 0.18 * points + 0.82 * following], axis=1)
        points = points.reshape(-1, 2)
    return points


def straight(*corners: tuple[float, float]) -> Polygon:
    """A polygon with sharp corners."""
    return np.asarray(corners, dtype=np.float64)


def mirrored(right_side: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A closed outline from its right side, listed top to bottom."""
    return [*right_side, *[(-x, y) for x, y in reversed(right_side)]]


def mug(rng: np.random.Generator) -> Shape:
    height = rng.uniform(0.7, 0.95)
    body = smooth([(-0.72, -height), (0.42, -height), (0.36, height), (-0.66, height)])
    return Shape(
        [body, ellipse(0.46, 0.0, 0.5, 0.5 * height + 0.08)],
        [ellipse(0.56, 0.0, 0.24, 0.28 * height + 0.02)],
        [Detail(body), Detail(ellipse(-0.15, -height + 0.12, 0.5, 0.14), 0.55)],
    )


def bottle(rng: np.random.Generator) -> Shape:
    waist = rng.uniform(0.34, 0.44)
    side = [(0.14, -1.0), (0.15, -0.5), (waist, -0.2), (waist, 1.0)]
    label = straight((-waist, 0.15), (waist, 0.15), (waist, 0.6), (-waist, 0.6))
    cap = straight((-0.16, -1.0), (0.16, -1.0), (0.16, -0.82), (-0.16, -0.82))
    return Shape([smooth(mirrored(side))], (), [Detail(label, rgb=PAPER), Detail(cap, 0.45)], tilt=40)


def box(rng: np.random.Generator) -> Shape:
    depth = rng.uniform(0.25, 0.45)
    front = straight((-0.9, -0.5), (0.9 - depth, -0.5), (0.9 - depth, 0.8), (-0.9, 0.8))
    top = straight((-0.9, -0.5), (-0.9 + depth, -0.5 - depth), (0.9, -0.5 - depth), (0.9 - depth, -0.5))
    side = straight((0.9 - depth, -0.5), (0.9, -0.5 - depth), (0.9, 0.8 - depth), (0.9 - depth, 0.8))
    middle = (-0.9 + 0.9 - depth) / 2
    tape = straight((middle - 0.1, -0.5), (middle + 0.1, -0.5), (middle + 0.1, 0.8), (middle - 0.1, 0.8))
    return Shape([front, top, side], (), [Detail(top, 1.25), Detail(side, 0.65), Detail(tape, 0.82)], tilt=12)


def ball(rng: np.random.Generator) -> Shape:
    stripe = ellipse(0, 0, 0.86, 0.3)
    inner = ellipse(0, -0.1, 0.86, 0.24)
    return Shape([ellipse(0, 0, 0.86, 0.86, 56)], (), [Detail(stripe, 0.6), Detail(inner)], tilt=180)


def book(rng: np.random.Generator) -> Shape:
    width = rng.uniform(0.58, 0.72)
    cover = straight((-width, -0.9), (width, -0.9), (width, 0.78), (-width, 0.78))
    pages = straight((-width + 0.06, 0.78), (width, 0.78), (width - 0.04, 0.92), (-width + 0.06, 0.92))
    spine = straight((-width, -0.9), (-width + 0.2, -0.9), (-width + 0.2, 0.78), (-width, 0.78))
    title = straight((-0.2, -0.55), (width - 0.15, -0.55), (width - 0.15, -0.3), (-0.2, -0.3))
    details = [Detail(pages, rgb=PAPER), Detail(spine, 0.6), Detail(title, rgb=PAPER)]
    return Shape([cover, pages], (), details, tilt=60)


def plate(rng: np.random.Generator) -> Shape:
    flat = rng.uniform(0.42, 0.58)
    rim, well = ellipse(0, 0, 1.0, flat, 56), ellipse(0, 0.02, 0.66, flat * 0.62, 48)
    return Shape([rim], (), [Detail(well, 0.78), Detail(ellipse(0, 0.05, 0.58, flat * 0.52), 0.95)], tilt=15)


def vase(rng: np.random.Generator) -> Shape:
    belly = rng.uniform(0.56, 0.7)
    side = [(0.4, -1.0), (0.18, -0.72), (0.22, -0.42), (belly, 0.1), (belly * 0.92, 0.5), (0.3, 1.0)]
    band = straight((-0.62, 0.14), (0.62, 0.14), (0.62, 0.3), (-0.62, 0.3))
    mouth = ellipse(0, -0.93, 0.3, 0.07)
    return Shape([smooth(mirrored(side))], (), [Detail(band, 1.35), Detail(mouth, 0.4)])


def apple(rng: np.random.Generator) -> Shape:
    side = [(0.12, -0.56), (0.5, -0.76), (0.88, -0.4), (0.82, 0.3), (0.44, 0.84), (0.1, 0.76)]
    stem = straight((-0.05, -0.52), (0.03, -0.95), (0.12, -0.93), (0.06, -0.52))
    leaf = smooth([(0.06, -0.72), (0.36, -1.0), (0.58, -0.86), (0.3, -0.7)])
    return Shape(
        [smooth(mirrored(side)), stem, leaf], (), [Detail(stem, rgb=STEM), Detail(leaf, rgb=LEAF)], tilt=40
    )


def banana(rng: np.random.Generator) -> Shape:
    bend = rng.uniform(0.5, 0.64)
    outer, inner = np.linspace(0.06, np.pi - 0.06, 18), np.linspace(np.pi - 0.16, 0.16, 18)
    low = np.stack([np.cos(outer), -0.4 + 1.05 * np.sin(outer)], axis=1)
    high = np.stack([0.92 * np.cos(inner), -0.42 + bend * np.sin(inner)], axis=1)
    tips = [ellipse(0.96, -0.38, 0.1, 0.12, 12), ellipse(-0.96, -0.38, 0.1, 0.12, 12)]
    return Shape([np.concatenate([low, high]), *tips], (), [Detail(tip, rgb=STEM) for tip in tips], tilt=180)


def lamp(rng: np.random.Generator) -> Shape:
    spread = rng.uniform(0.62, 0.78)
    shade = straight((-0.36, -1.0), (0.36, -1.0), (spread, -0.1), (-spread, -0.1))
    pole = straight((-0.08, -0.1), (0.08, -0.1), (0.08, 0.85), (-0.08, 0.85))
    foot = ellipse(0, 0.86, 0.48, 0.14)
    return Shape([shade, pole, foot], (), [Detail(pole, 0.6), Detail(foot, 0.7)], tilt=20)


def clock(rng: np.random.Generator) -> Shape:
    hour, minute = rng.uniform(0, 2 * np.pi, 2)
    feet = [straight((s * 0.5, 0.6), (s * 0.72, 0.98), (s * 0.52, 0.98), (s * 0.3, 0.7)) for s in (-1, 1)]
    bells = [ellipse(s * 0.5, -0.76, 0.26, 0.2) for s in (-1, 1)]
    hands = [_hand(hour, 0.34), _hand(minute, 0.52)]
    details = [Detail(ellipse(0, 0, 0.62, 0.62), rgb=FACE), *[Detail(hand, rgb=DARK) for hand in hands]]
    details += [Detail(bell, 0.7) for bell in bells]
    return Shape([ellipse(0, 0, 0.84, 0.84, 56), *feet, *bells], (), details, tilt=20)


def _hand(angle: float, length: float) -> Polygon:
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]]) * 0.05
    return np.stack([-0.08 * along - across, length * along - across, length * along + across, across])


def key(rng: np.random.Generator) -> Shape:
    shaft = straight((-0.3, -0.13), (1.0, -0.13), (1.0, 0.13), (-0.3, 0.13))
    teeth = [straight((x, 0.1), (x + 0.16, 0.1), (x + 0.16, 0.46), (x, 0.46)) for x in (0.52, 0.82)]
    head = ellipse(-0.55, 0, 0.46, 0.46)
    return Shape([head, shaft, *teeth], [ellipse(-0.6, 0, 0.22, 0.22, 24)], [Detail(shaft, 0.85)], tilt=180)


def hat(rng: np.random.Generator) -> Shape:
    tall = rng.uniform(0.7, 0.85)
    crown = smooth([(-0.46, 0.3), (-0.5, -tall), (0.5, -tall), (0.46, 0.3)])
    brim = ellipse(0, 0.3, 1.0, 0.28, 48)
    band = straight((-0.49, -0.02), (0.49, -0.02), (0.48, 0.22), (-0.48, 0.22))
    return Shape([brim, crown], (), [Detail(crown, 1.1), Detail(band, 0.45)], tilt=25)


def teapot(rng: np.random.Generator) -> Shape:
    body = ellipse(0, 0.18, 0.62, 0.56, 48)
    spout = smooth([(0.4, 0.35), (0.72, 0.02), (0.8, -0.32), (1.0, -0.36), (0.92, 0.16), (0.5, 0.56)])
    handle, hollow = ellipse(-0.62, 0.12, 0.38, 0.4), ellipse(-0.68, 0.12, 0.2, 0.23)
    lid, knob = ellipse(0, -0.34, 0.36, 0.12), ellipse(0, -0.5, 0.12, 0.12, 20)
    details = [Detail(body), Detail(lid, 0.65), Detail(knob, 0.65)]
    return Shape([body, spout, handle, lid, knob], [hollow], details, tilt=18)


SHAPES = {
    "mug": mug,
    "bottle": bottle,
    "box": box,
    "ball": ball,
    "book": book,
    "plate": plate,
    "vase": vase,
    "apple": apple,
    "banana": banana,
    "lamp": lamp,
    "clock": clock,
    "key": key,
    "hat": hat,
    "teapot": teapot,
}
