"""Makes the golden file of a model: drawn pictures, and prompts whose masks are decided rather than close calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.vision.config import VisionConfig
from engines.vision.golden import Golden, Prompt, write_golden
from engines.vision.preprocess import Prepared, prepare
from engines.vision.runtimes.base import Decoded, VisionRuntime
from engines.vision.runtimes.torch_cpu import TorchRuntime
from engines.vision.visual_prompt import SparsePrompt, VisualPrompt

SEED = 20260401
CANDIDATES, AT_ONCE = 96, 12
KEPT = 4
SHAPES = ((3, 4), (4, 3))  # of the pictures: one wide, one high
AREAS = (0.02, 0.9)  # shares of the picture that a useful mask covers


def make_golden(vision_dir: Path) -> None:
    """Write the golden file of the model in `vision_dir`, by the torch reference on the CPU.

    Of `CANDIDATES` random vectors, without and with a box, those are kept whose masks hang the least on a thread:
    an IoU of masks that are near the threshold everywhere, or of a few pixels, says nothing of an engine.
    """
    write_golden(golden_of(TorchRuntime(vision_dir)), vision_dir)


def golden_of(reference: VisionRuntime) -> Golden:
    """Golden inputs, and what `reference` makes of them."""
    side = reference.config.image_size
    generator = np.random.default_rng(SEED)
    images = [_picture(generator, side, shape) for shape in SHAPES]
    embeddings = [embedding for image in images for embedding in reference.encode([image])]
    vectors = _vectors(generator, reference.config)
    boxes = [_box(generator, images[i % len(images)]) for i in range(CANDIDATES)]
    plain = [Prompt(i % len(images), vector, None) for i, vector in enumerate(vectors) if vector is not None]
    boxed = [Prompt(i % len(images), vectors[i], box) for i, box in enumerate(boxes)]
    prompts, expected = [], []
    for candidates in (plain, boxed):  # one decoder, then the other
        items = Golden(images, candidates, []).items(embeddings)
        starts = range(0, len(items), AT_ONCE)
        decoded = [one for start in starts for one in reference.decode(items[start : start + AT_ONCE])]
        doubts = [_doubt(one, item.size) for one, item in zip(decoded, items, strict=True)]
        for best in sorted(range(len(items)), key=doubts.__getitem__)[:KEPT]:
            prompts.append(candidates[best])
            expected.append(decoded[best])
    return Golden(images, prompts, expected)


def _vectors(generator: np.random.Generator, config: VisionConfig) -> list[NDArray[np.float32] | None]:
    if config.heatmap is None:
        return [None] * CANDIDATES
    return list(generator.standard_normal((CANDIDATES, config.vector_dim)).astype(np.float32))


def _box(generator: np.random.Generator, image: Prepared) -> SparsePrompt:
    """Somewhere around the middle of the picture."""
    height, width = image.size
    left, top, right, bottom = generator.uniform((0, 0, 0.6, 0.6), (0.4, 0.4, 1, 1))
    box = (width * left, height * top, width * right, height * bottom)
    return VisualPrompt(box=box).sparse(image.size, image.size)


def _picture(generator: np.random.Generator, side: int, shape: tuple[int, int]) -> Prepared:
    """A gradient with a disc in the middle, bars at the edges, and grain."""
    height, width = (side * length // max(shape) for length in shape)
    y, x = np.mgrid[:height, :width] / side
    ground = np.stack([x, y, 1 - x], axis=-1) * 160 + 40
    disc = (x - width / side / 2) ** 2 + (y - height / side / 2) ** 2 < 0.03
    ground[disc] = generator.integers(0, 256, 3)
    ground[: height // 8] = generator.integers(0, 256, 3)
    ground[:, : width // 10] = generator.integers(0, 256, 3)
    grain = generator.normal(0, 6, ground.shape)
    return prepare((ground + grain).clip(0, 255).astype(np.uint8), side)


def _doubt(decoded: Decoded, size: tuple[int, int]) -> float:
    """Pixels near the threshold for each one of the mask, which is what its IoU may lose; more for no useful area."""
    height, width = (-(-length * len(decoded.mask_logits) // max(size)) for length in size)
    logits = decoded.mask_logits[:height, :width]
    area = float((logits > 0).mean())
    near = float((np.abs(logits) < 0.2 * logits.std()).mean()) / max(area, 1 / logits.size)
    return near + (not AREAS[0] < area < AREAS[1]) * logits.size
