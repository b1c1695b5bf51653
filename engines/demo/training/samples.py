"""From a scene to what the trainer eats: both towers' images, mask targets, dense labels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.demo.models import IMAGE_FACTOR, MERGE, MLLM_IMAGE, PATCH, SAM_PATCH, SAM_SIZE
from engines.demo.scenes import COLOURS, KINDS, Scene
from engines.mllm.image import smart_resize
from engines.vision.preprocess import prepare

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
CELLS = SAM_SIZE // SAM_PATCH
CLASSES = len(KINDS) + 1 + len(COLOURS) + 1
"""Dense labels per cell: shares of the kinds and of "none", then of the colours and of "none"."""


@dataclass(frozen=True, slots=True)
class SceneSample:
    """One scene, ready for the towers.

    `pixels` uint8 [S, S, 3] padded, `size` its valid (h, w); `view` uint8 [H, W, 3] the image at the size
    that Qwen2.5-VL sees, `grid` its (rows, columns) of patches; `amodal` and `modal` uint8 coverage
    [objects, S/2, S/2]; `cells` [g*g, 2*CLASSES] and `tokens` [N/4, 2*CLASSES] are shares of what is visible,
    then of what is hidden.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    view: NDArray[np.uint8]
    grid: tuple[int, int]
    amodal: NDArray[np.uint8]
    modal: NDArray[np.uint8]
    cells: NDArray[np.float32]
    tokens: NDArray[np.float32]


def make_sample(scene: Scene) -> SceneSample:
    """All arrays of one scene."""
    image = Image.fromarray(scene.image)
    prepared = prepare(image, SAM_SIZE)
    height, width = smart_resize(image.height, image.width, MLLM_IMAGE)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    kinds = [KINDS.index(item.kind) for item in scene.objects]
    colours = [COLOURS.index(item.colour) for item in scene.objects]
    amodal = _on_frame([item.amodal for item in scene.objects], prepared.size)
    modal = _on_frame([item.modal for item in scene.objects], prepared.size)
    shape = (height // IMAGE_FACTOR, width // IMAGE_FACTOR)
    return SceneSample(
        pixels=prepared.pixels,
        size=prepared.size,
        view=resized,
        grid=(height // PATCH, width // PATCH),
        amodal=_halve(amodal),
        modal=_halve(modal),
        cells=_dense(_pool(amodal), _pool(modal), kinds, colours),
        tokens=_dense(
            _shrink([item.amodal for item in scene.objects], shape),
            _shrink([item.modal for item in scene.objects], shape),
            kinds,
            colours,
        ),
    )


def patchify(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Qwen2-VL's patches of an image [H, W, 3], both divisible by 28: float32 [H*W/196, 3*2*14*14].

    The order is that of transformers' Qwen2VLImageProcessor: 2x2 blocks of patches one after another, and
    each patch twice, as the two frames of a still.
    """
    pixels = (image.astype(np.float32) / 255 - CLIP_MEAN) / CLIP_STD
    rows, columns = image.shape[0] // IMAGE_FACTOR, image.shape[1] // IMAGE_FACTOR
    blocks = pixels.reshape(rows, MERGE, PATCH, columns, MERGE, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    flat = blocks.reshape(-1, 3, 1, PATCH * PATCH)
    return np.ascontiguousarray(np.broadcast_to(flat, (flat.shape[0], 3, 2, PATCH * PATCH))).reshape(
        flat.shape[0], -1
    )


def _on_frame(masks: list[NDArray[np.bool_]], size: tuple[int, int]) -> NDArray[np.float32]:
    """Masks resized to `size` (h, w) within the padded SAM frame, as shares [objects, S, S]."""
    frame = np.zeros((len(masks), SAM_SIZE, SAM_SIZE), dtype=np.float32)
    frame[:, : size[0], : size[1]] = _shrink(masks, size)
    return frame


def _shrink(masks: list[NDArray[np.bool_]], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Area-averaged masks [objects, *shape]."""
    resized = [
        cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
        for mask in masks
    ]
    return np.stack(resized)


def _halve(frame: NDArray[np.float32]) -> NDArray[np.uint8]:
    half = SAM_SIZE // 2
    shares = frame.reshape(-1, half, 2, half, 2).mean((2, 4))
    return np.asarray(np.round(shares * 255), dtype=np.uint8)


def _pool(frame: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(frame.reshape(-1, CELLS, SAM_PATCH, CELLS, SAM_PATCH).mean((2, 4)))


def _dense(
    amodal: NDArray[np.float32], modal: NDArray[np.float32], kinds: list[int], colours: list[int]
) -> NDArray[np.float32]:
    """Shares of kinds and colours per cell, [cells, 2*CLASSES]: visible, then hidden."""
    return np.concatenate(
        [_labels(modal, kinds, colours), _labels(np.clip(amodal - modal, 0, 1), kinds, colours)], axis=1
    )


def _labels(shares: NDArray[np.float32], kinds: list[int], colours: list[int]) -> NDArray[np.float32]:
    flat = shares.reshape(len(shares), -1).T  # (cells, objects)
    none = np.clip(1 - flat.sum(1, keepdims=True), 0, 1)
    parts = []
    for indices, count in ((kinds, len(KINDS)), (colours, len(COLOURS))):
        onto = np.zeros((len(indices), count), dtype=np.float32)
        onto[np.arange(len(indices)), indices] = 1
        values = np.concatenate([flat @ onto, none], axis=1)
        parts.append(values / values.sum(1, keepdims=True).clip(1e-6))
    return np.concatenate(parts, axis=1)
