"""Muted, patterned table tops."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]  # (H, W, 3), 0..255


def paint_background(height: int, width: int, rng: np.random.Generator) -> Image:
    """A table top: two muted colours mixed by a random pattern, lit from one side, with a little grain."""
    first, second = _muted(rng), _muted(rng)
    mix = _pattern(height, width, rng)[..., None] * rng.uniform(0.15, 0.75)
    image = first * (1 - mix) + second * mix
    light = _ramp(height, width, rng.uniform(0, 2 * np.pi)) * rng.uniform(0.0, 0.3) + 0.85
    grain = rng.normal(0, rng.uniform(1, 5), (height, width, 1))
    return np.asarray(np.clip(image * light[..., None] + grain, 0, 255), dtype=np.float32)


def _muted(rng: np.random.Generator) -> Image:
    hue, saturation, value = rng.uniform(0, 1), rng.uniform(0.03, 0.3), rng.uniform(0.3, 0.85)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32) * 255


def _ramp(height: int, width: int, angle: float) -> Image:
    """0..1 along the direction `angle`; [H, W]."""
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    return np.asarray(0.5 + (x * np.cos(angle) + y * np.sin(angle)) / 1.42, dtype=np.float32)


def _pattern(height: int, width: int, rng: np.random.Generator) -> Image:
    """A pattern of values 0..1, [H, W]: plain, stripes, checks, dots, wood or a horizon."""
    unit = min(height, width)
    period = unit * rng.uniform(0.06, 0.3)
    angle = rng.uniform(0, np.pi)
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    match rng.integers(6):
        case 0:
            values = np.broadcast_to(np.float32(0), (height, width))
        case 1:
            values = 0.5 + 0.5 * np.sin(2 * np.pi * along / period)
        case 2:
            values = (np.floor(along / period) + np.floor(across / period)) % 2
        case 3:
            near = np.hypot(along % period - period / 2, across % period - period / 2)
            values = near < period * rng.uniform(0.15, 0.35)
        case 4:
            wave = along + period * 0.4 * np.sin(across / (unit * 0.3))
            values = np.abs(np.sin(2 * np.pi * wave / period)) ** 3
        case _:
            values = np.broadcast_to(y < height * rng.uniform(0.1, 0.5), (height, width))
    return np.asarray(values, dtype=np.float32)
