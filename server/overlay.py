"""Masks drawn over their image: tint and outline, hidden parts hatched, the heatmap beside it."""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.events import Rle
from engines.vision import masks
from server.schemas import HeatmapInfo, SegmentResponse

Pixels = NDArray[np.uint8]  # [H, W, 3], RGB
COLOURS = ((230, 60, 60), (40, 120, 230), (40, 170, 90), (240, 160, 30), (150, 80, 210), (20, 180, 190))
TINT, HEAT = 0.45, 0.65
"""How much of the colour shows over the image."""


def draw_overlay(image: Image.Image, response: SegmentResponse) -> Image.Image:
    """`image` (upright RGB) with the response's masks, and beside it the heatmap if there is one.

    Of an object with both masks the visible part is tinted and the hidden one hatched.
    """
    pixels: Pixels = np.array(image.convert("RGB"))
    hidden = {part.object: masks.decode(part.rle) for part in response.hidden}
    for mask in response.masks:
        if mask.object in hidden and mask.mask_type == "modal":
            continue  # it is the amodal mask less the hidden part
        _draw_mask(pixels, _decode(mask.rle), hidden.get(mask.object), COLOURS[mask.object % len(COLOURS)])
    if response.heatmap is None:
        return Image.fromarray(pixels)
    beside = _draw_heatmap(np.array(image.convert("RGB")), response.heatmap)
    return Image.fromarray(np.concatenate([pixels, beside], axis=1))


def _decode(rle: Rle) -> NDArray[np.bool_]:
    return np.ascontiguousarray(masks.decode(rle))


def _draw_mask(
    pixels: Pixels, mask: NDArray[np.bool_], hidden: NDArray[np.bool_] | None, colour: tuple[int, int, int]
) -> None:
    """Draw `mask` bool [H, W] into `pixels`, its part `hidden` hatched."""
    width = max(2, round(min(mask.shape) / 200))
    tinted = mask if hidden is None else mask & ~hidden
    if hidden is not None:
        tinted |= hidden & mask & _hatching(mask.shape, width)
    shades = (1 - TINT) * np.arange(256)[None, :, None] + TINT * np.array(colour)
    cv2.copyTo(cv2.LUT(pixels, shades.astype(np.uint8)), tinted.view(np.uint8), pixels)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pixels, outlines, -1, colour, width)


def _hatching(shape: tuple[int, ...], width: int) -> NDArray[np.bool_]:
    """Diagonal stripes of `width` over a mask's [H, W]."""
    period = 6 * width
    rows, columns = ((np.arange(side) % period).astype(np.uint16) for side in shape)
    stripes: NDArray[np.bool_] = np.add.outer(rows, columns) % np.uint16(period) < 2 * width
    return stripes


def _draw_heatmap(pixels: Pixels, heatmap: HeatmapInfo) -> Pixels:
    """The image in grey under the heatmap's colours."""
    size = (pixels.shape[1], pixels.shape[0])
    with Image.open(io.BytesIO(base64.b64decode(heatmap.png_base64)), formats=["PNG"]) as stored:
        values = np.asarray(stored.convert("L").resize(size, Image.Resampling.BILINEAR))
    heat = cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed: Pixels = np.asarray(cv2.addWeighted(grey, 1 - HEAT, heat, HEAT, 0), dtype=np.uint8)
    return mixed
