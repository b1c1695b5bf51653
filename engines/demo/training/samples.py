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
class View:
    """What Qwen2.5-VL sees of a scene.

    `pixels` uint8 [H, W, 3], `grid` its (rows, columns) of patches; `tokens` [N/4, 2*CLASSES] are shares of what
    is visible at each image token, then of what is hidden; `owners` [N/4, 3] are the centre (x, y) in 0..1 of what is
    seen of the object that is seen most at the token, and the share that it has there.
    """

    pixels: NDArray[np.uint8]
    grid: tuple[int, int]
    tokens: NDArray[np.float32]
    owners: NDArray[np.float32]

    def mirrored(self) -> View:
        """The view with left and right exchanged."""
        shape = (self.grid[0] // MERGE, self.grid[1] // MERGE, -1)
        tokens = self.tokens.reshape(shape)[:, ::-1].reshape(self.tokens.shape)
        owners = self.owners.reshape(shape)[:, ::-1].reshape(self.owners.shape).copy()
        owners[:, 0] = 1 - owners[:, 0]
        return View(np.ascontiguousarray(self.pixels[:, ::-1]), self.grid, tokens, owners)


@dataclass(frozen=True, slots=True)
class SceneSample:
    """One scene, ready for both towers.

    `pixels` uint8 [S, S, 3] padded, `size` its valid (h, w); `amodal` and `modal` uint8 coverage
    [objects, S/2, S/2]; `cells` [g*g, 2*CLASSES] are shares of what is visible at each cell of the embedding,
    then of what is hidden; `centres` float32 [objects, 2] are the objects' (x, y) in 0..1.
    """

    view: View
    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    amodal: NDArray[np.uint8]
    modal: NDArray[np.uint8]
    cells: NDArray[np.float32]
    centres: NDArray[np.float32]


def make_view(scene: Scene) -> View:
    """The scene as Qwen2.5-VL sees it."""
    image = Image.fromarray(scene.image)
    height, width = smart_resize(image.height, image.width, MLLM_IMAGE)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    amodal, modal = _both_masks(scene, (height // IMAGE_FACTOR, width // IMAGE_FACTOR))
    grid = (height // PATCH, width // PATCH)
    return View(resized, grid, _dense(amodal, modal, scene), _owners(modal, scene))


def make_sample(scene: Scene) -> SceneSample:
    """All arrays of one scene."""
    prepared = prepare(scene.image, SAM_SIZE)
    frame = np.zeros((2, len(scene.objects), SAM_SIZE, SAM_SIZE), dtype=np.float32)
    frame[:, :, : prepared.size[0], : prepared.size[1]] = _both_masks(scene, prepared.size)
    amodal, modal = (np.stack([_area(mask, (SAM_SIZE // 2,) * 2) for mask in masks]) for masks in frame)
    covered, seen = (np.stack([_area(mask, (CELLS, CELLS)) for mask in masks]) for masks in (amodal, modal))
    return SceneSample(
        view=make_view(scene),
        pixels=prepared.pixels,
        size=prepared.size,
        amodal=_bytes(amodal),
        modal=_bytes(modal),
        cells=_dense(covered, seen, scene),
        centres=np.array([item.centre for item in scene.objects], dtype=np.float32),
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
    twice = np.broadcast_to(flat, (len(flat), 3, 2, PATCH * PATCH))
    return np.ascontiguousarray(twice, dtype=np.float32).reshape(len(flat), -1)


def _both_masks(scene: Scene, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Amodal and modal masks as shares, [2, objects, *shape]."""
    amodal = [_area(item.amodal.astype(np.float32), shape) for item in scene.objects]
    modal = [_area(item.modal.astype(np.float32), shape) for item in scene.objects]
    return np.stack([np.stack(amodal), np.stack(modal)])


def _area(mask: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    resized: NDArray[np.float32] = cv2.resize(mask, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return resized


def _bytes(shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.round(shares * 255), dtype=np.uint8)


def _dense(amodal: NDArray[np.float32], modal: NDArray[np.float32], scene: Scene) -> NDArray[np.float32]:
    """Shares of kinds and colours per cell, [cells, 2*CLASSES]: visible, then hidden."""
    kinds = [KINDS.index(item.kind) for item in scene.objects]
    colours = [COLOURS.index(item.colour) for item in scene.objects]
    hidden = np.clip(amodal - modal, 0, 1)
    return np.concatenate([_labels(modal, kinds, colours), _labels(hidden, kinds, colours)], axis=1)


def _owners(modal: NDArray[np.float32], scene: Scene) -> NDArray[np.float32]:
    """Seen centre (x, y) of the object seen most at each cell, and its share there, [cells, 3]."""
    shares = modal.reshape(len(modal), -1).T  # (cells, objects)
    centres = np.array([item.seen_centre for item in scene.objects], dtype=np.float32)
    most = shares.argmax(1)
    return np.concatenate([centres[most], shares.max(1, keepdims=True)], axis=1)


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
