"""Draws a scene: choice and placing of objects, painting back to front, exact masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.demo.scenes.background import paint_background
from engines.demo.scenes.scene import COLOURS, KINDS, Scene, SceneObject
from engines.demo.scenes.shapes import SHAPES, Polygon, Shape

PALETTE = {
    "red": (204, 38, 40),
    "orange": (242, 132, 24),
    "yellow": (242, 216, 48),
    "green": (44, 158, 62),
    "blue": (38, 86, 208),
    "purple": (138, 54, 176),
    "white": (240, 240, 238),
    "black": (36, 36, 40),
}
SHORTEST, LONGEST = 160, 1600
SUBPIXEL_BITS = 4
PLACING_TRIES = 12
MIN_VISIBLE_SHARE = 0.4
MIN_VISIBLE_AREA = 0.005


@dataclass(frozen=True, slots=True)
class Placed:
    """An object before painting; `mask` is its amodal mask, [H, W]."""

    kind: str
    colour: str
    shape: Shape
    transform: NDArray[np.float64]  # (2, 3), unit coordinates to pixels
    mask: NDArray[np.bool_]


def render_scene(seed: int, *, longest: int | None = None) -> Scene:
    """The scene of a seed.

    `longest` fixes the longer side in pixels; otherwise it is drawn from 160..1600. The aspect ratio lies
    between 1:2 and 2:1.
    """
    rng = np.random.default_rng(seed)
    drawn = int(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST))))
    height, width = _frame(longest or drawn, rng)
    placed = _place_all(height, width, rng)
    image = paint_background(height, width, rng)
    for item in placed:
        _paint(image, item, rng)
    return Scene(seed, image.astype(np.uint8), _describe(placed))


def _frame(longest: int, rng: np.random.Generator) -> tuple[int, int]:
    shortest = max(round(longest / rng.uniform(1.0, 2.0)), min(SHORTEST, longest))
    return (shortest, longest) if rng.random() < 0.7 else (longest, shortest)


def _place_all(height: int, width: int, rng: np.random.Generator) -> list[Placed]:
    wanted = int(rng.integers(3, 8))
    placed: list[Placed] = []
    for _ in range(wanted * PLACING_TRIES):
        candidate = _place(height, width, placed, rng)
        if _stays_visible([*placed, candidate]):
            placed.append(candidate)
        if len(placed) == wanted:
            break
    return placed


def _place(height: int, width: int, placed: list[Placed], rng: np.random.Generator) -> Placed:
    kind, colour = _identity(placed, rng)
    shape = SHAPES[kind](rng)
    unit = 0.87 * float(np.sqrt(height * width))
    radius = unit * rng.uniform(0.14, 0.26)
    if placed and rng.random() < 0.42:
        neighbour = placed[int(rng.integers(len(placed)))].transform[:, 2]
        angle, distance = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.6, 1.5)
        centre = neighbour + distance * np.array([np.cos(angle), np.sin(angle)])
    else:
        margin = radius * rng.choice([1.0, 0.3], p=[0.85, 0.15])
        centre = np.array([rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)])
    centre = np.clip(centre, radius * 0.25, np.array([width, height]) - radius * 0.25)
    transform = _similarity(shape, radius, centre, rng)
    return Placed(kind, colour, shape, transform, _coverage(shape, transform, height, width) >= 128)


def _identity(placed: list[Placed], rng: np.random.Generator) -> tuple[str, str]:
    """A kind and colour not in the scene yet; often one that shares its kind or colour with another."""
    taken = {(item.kind, item.colour) for item in placed}
    while True:
        kind, colour = str(rng.choice(KINDS)), str(rng.choice(COLOURS))
        if placed and (draw := rng.random()) < 0.45:
            other = placed[int(rng.integers(len(placed)))]
            kind, colour = (other.kind, colour) if draw < 0.28 else (kind, other.colour)
        if (kind, colour) not in taken:
            return kind, colour


def _similarity(
    shape: Shape, radius: float, centre: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    angle = np.deg2rad(rng.uniform(-shape.tilt, shape.tilt))
    flip = rng.choice([-1.0, 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([radius * turn @ np.diag([flip, 1.0]), centre[:, None]], axis=1)


def _stays_visible(placed: list[Placed]) -> bool:
    """Whether every object, in this order, keeps enough of itself in sight."""
    area = placed[0].mask.size
    above = np.zeros_like(placed[0].mask)
    for item in reversed(placed):
        whole, seen = int(item.mask.sum()), int((item.mask & ~above).sum())
        if seen < max(MIN_VISIBLE_AREA * area, MIN_VISIBLE_SHARE * whole):
            return False
        above |= item.mask
    return True


def _fill(canvas: NDArray[np.uint8], polygon: Polygon, transform: NDArray[np.float64], value: int) -> None:
    points = polygon @ transform[:, :2].T + transform[:, 2]
    fixed = np.round((points - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], (value,), cv2.LINE_AA, SUBPIXEL_BITS)


def _coverage(shape: Shape, transform: NDArray[np.float64], height: int, width: int) -> NDArray[np.uint8]:
    """How much of each pixel the silhouette covers, 0..255, [H, W]."""
    canvas = np.zeros((height, width), dtype=np.uint8)
    for solid in shape.solids:
        _fill(canvas, solid, transform, 255)
    for hole in shape.holes:
        _fill(canvas, hole, transform, 0)
    return canvas


def _paint(image: NDArray[np.float32], item: Placed, rng: np.random.Generator) -> None:
    """Paint one object over `image`, in place."""
    height, width = item.mask.shape
    rows, columns = np.flatnonzero(item.mask.any(1)), np.flatnonzero(item.mask.any(0))
    top, bottom = max(rows[0] - 2, 0), min(rows[-1] + 3, height)
    left, right = max(columns[0] - 2, 0), min(columns[-1] + 3, width)
    transform = item.transform.copy()
    transform[:, 2] -= (left, top)
    size = (bottom - top, right - left)
    alpha = _coverage(item.shape, transform, *size).astype(np.float32)[..., None] / 255
    surface = _surface(item, transform, size, rng)
    patch = image[top:bottom, left:right]
    patch += alpha * (surface - patch)


def _surface(
    item: Placed, transform: NDArray[np.float64], size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """The object's shaded colours over its patch, [h, w, 3]."""
    base = np.array(PALETTE[item.colour], dtype=np.float32) + rng.normal(0, 9, 3).astype(np.float32)
    colours = np.broadcast_to(base, (*size, 3)).copy()
    for detail in item.shape.details:
        drawn = np.zeros(size, dtype=np.uint8)
        _fill(drawn, detail.polygon, transform, 255)
        ink = np.array(detail.rgb, dtype=np.float32) if detail.rgb else base * detail.tint + 12
        colours += drawn[..., None] / np.float32(255) * (ink - colours)
    return np.clip(colours * _shading(size, transform, rng), 0, 255)


def _shading(
    size: tuple[int, int], transform: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Light from one side and a soft highlight, as a factor [h, w, 1]."""
    radius = float(np.hypot(*transform[:, 0]))
    y = (np.arange(size[0], dtype=np.float32)[:, None] - np.float32(transform[1, 2])) / radius
    x = (np.arange(size[1], dtype=np.float32)[None, :] - np.float32(transform[0, 2])) / radius
    angle, depth = rng.uniform(-np.pi, 0), rng.uniform(0.08, 0.24)
    dx, dy = np.cos(angle), np.sin(angle)
    slope = 1 + depth * (x * dx + y * dy)
    glint = np.exp(-((x - 0.4 * dx) ** 2 + (y - 0.4 * dy) ** 2) / 0.08) * rng.uniform(0.05, 0.3)
    return np.asarray(slope + glint, dtype=np.float32)[..., None]


def _describe(placed: list[Placed]) -> tuple[SceneObject, ...]:
    """The objects with their visible parts; walks from the front to the back."""
    modal = []
    above = np.zeros_like(placed[0].mask)
    for item in reversed(placed):
        modal.append(item.mask & ~above)
        above |= item.mask
    modal.reverse()
    return tuple(_describe_one(index, placed, modal) for index in range(len(placed)))


def _describe_one(index: int, placed: list[Placed], modal: list[NDArray[np.bool_]]) -> SceneObject:
    item = placed[index]
    area = int(item.mask.sum())
    overlaps = {
        other: int((item.mask & modal[other]).sum()) / area for other in range(index + 1, len(placed))
    }
    covering = sorted((i for i, share in overlaps.items() if share >= 0.01), key=lambda i: -overlaps[i])
    rows, columns = np.nonzero(item.mask)
    height, width = item.mask.shape
    centre = (float(columns.mean() + 0.5) / width, float(rows.mean() + 0.5) / height)
    hidden = 1 - int(modal[index].sum()) / area
    return SceneObject(item.kind, item.colour, item.mask, modal[index], hidden, tuple(covering), centre)
