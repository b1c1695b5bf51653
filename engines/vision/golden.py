"""Golden inputs and outputs: what the torch reference makes of a few pictures, to hold compiled engines against."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from engines.errors import BundleError, EngineRefused
from engines.vision.onnx_cache import model_digest, storing
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import Decoded, DecodeItem, Embedding, VisionRuntime
from engines.vision.visual_prompt import SparsePrompt

GOLDEN_FILE = "golden.safetensors"
ENCODE_BATCHES = (1, 3, 8)
DECODE_BATCHES = (1, 5, 16)
"""Batches that together reach every profile of a compiled engine."""

Arrays = dict[str, Any]  # of NumPy, each of the type that `write_golden` gave it


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt on the image of number `owner`, by a `vector` float32 [D], by `sparse`, or by both."""

    owner: int
    vector: NDArray[np.float32] | None
    sparse: SparsePrompt | None


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """`images`, `prompts` on them, and the output that is `expected` for each prompt."""

    images: Sequence[Prepared]
    prompts: Sequence[Prompt]
    expected: Sequence[Decoded]

    def items(self, embeddings: Sequence[Embedding]) -> list[DecodeItem]:
        """The prompts on these embeddings of the images."""
        return [
            DecodeItem(embeddings[prompt.owner], prompt.vector, self.images[prompt.owner].size, prompt.sparse)
            for prompt in self.prompts
        ]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is demanded: an IoU of every mask with the reference's, and how far a heatmap's probability may be off."""

    mask_iou: float = 0.99
    prior_error: float = 0.05


BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far a runtime strays: the worst mask IoU, and the largest error of a heatmap's probability."""

    mask_iou: float
    prior_error: float
    bounds: Bounds

    def __str__(self) -> str:
        return (
            f"worst mask IoU {self.mask_iou:.4f} (at least {self.bounds.mask_iou}), "
            f"largest heatmap error {self.prior_error:.4f} (at most {self.bounds.prior_error})"
        )

    @property
    def good(self) -> bool:
        """Whether both are within their bounds."""
        return self.mask_iou >= self.bounds.mask_iou and self.prior_error <= self.bounds.prior_error


def judge(runtime: VisionRuntime, golden: Golden, bounds: Bounds = BOUNDS) -> Verdict:
    """Run `golden` in batches of several sizes and say how far the results are from what is expected."""
    side = runtime.config.image_size
    overlaps, errors = [1.0], [0.0]
    for encoded, decoded in zip(ENCODE_BATCHES, DECODE_BATCHES, strict=True):
        items = golden.items(_encode(runtime, golden.images, encoded))
        for plain in (True, False):  # apart, for a runtime would run a call of both as two
            places = [i for i, item in enumerate(items) if (item.sparse is None) == plain]
            asked = [places[i % len(places)] for i in range(decoded)] if places else []
            for place, result in zip(asked, runtime.decode([items[i] for i in asked]), strict=True):
                wanted, size = golden.expected[place], items[place].size
                overlaps.append(_iou(wanted.mask_logits, result.mask_logits, size, side))
                if items[place].vector is not None:
                    errors.append(_error(wanted.prior_logits, result.prior_logits, size, side))
    return Verdict(min(overlaps), max(errors), bounds)


def _encode(runtime: VisionRuntime, images: Sequence[Prepared], batch: int) -> list[Embedding]:
    """An embedding of each image, made in batches of that size by repeating them."""
    if batch < len(images):
        return [embedding for image in images for embedding in runtime.encode([image] * batch)[:1]]
    return runtime.encode([images[i % len(images)] for i in range(batch)])[: len(images)]


def require_faithful(runtime: VisionRuntime, golden: Golden, bounds: Bounds = BOUNDS) -> Verdict:
    """`judge`. Raises `EngineRefused`, with the figures, where the runtime strays too far."""
    verdict = judge(runtime, golden, bounds)
    if not verdict.good:
        raise EngineRefused(f"{runtime.info()['runtime']} strays from the reference: {verdict}")
    return verdict


def write_golden(golden: Golden, vision_dir: Path) -> None:
    """Write `GOLDEN_FILE`, whole or not at all, for the model that is in `vision_dir`.

    Raises:
        CacheFailed: the disk is full, or the folder cannot be written.
    """
    arrays: Arrays = {
        "pixels": np.stack([image.pixels for image in golden.images]),
        "sizes": np.array([image.size for image in golden.images], np.int64),
        "owners": np.array([prompt.owner for prompt in golden.prompts], np.int64),
        "prior_logits": np.stack([one.prior_logits for one in golden.expected]),
        "mask_logits": np.stack([one.mask_logits for one in golden.expected]),
        "iou": np.array([one.iou for one in golden.expected], np.float32),
    }
    for place, prompt in enumerate(golden.prompts):
        if prompt.vector is not None:
            arrays[f"vector.{place}"] = prompt.vector
        if prompt.sparse is not None:
            arrays[f"points.{place}"] = prompt.sparse.points
            arrays[f"labels.{place}"] = prompt.sparse.labels
    partial = vision_dir / f".{GOLDEN_FILE}.{os.getpid()}"
    with storing(vision_dir / GOLDEN_FILE):
        try:
            partial.write_bytes(save(arrays, metadata={"model": model_digest(vision_dir)}))
            partial.replace(vision_dir / GOLDEN_FILE)
        finally:
            partial.unlink(missing_ok=True)


def read_golden(vision_dir: Path) -> Golden:
    """What `write_golden` wrote.

    Raises:
        BundleError: it is missing, damaged, or of other weights than those beside it.
    """
    file = vision_dir / GOLDEN_FILE
    try:
        with safe_open(file, framework="np") as stored:
            of = (stored.metadata() or {}).get("model")
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{file}: no golden outputs: {error}; `r2sm build` makes them") from error
    if of != model_digest(vision_dir):
        raise BundleError(f"{file}: these golden outputs are of other weights; delete it and `r2sm build`")
    try:
        return _golden(arrays)
    except KeyError as error:
        raise BundleError(f"{file}: {error} is missing") from error


def _golden(arrays: Arrays) -> Golden:
    sizes = [(int(height), int(width)) for height, width in arrays["sizes"]]
    outputs = zip(arrays["prior_logits"], arrays["mask_logits"], arrays["iou"], strict=True)
    return Golden(
        images=[Prepared(pixels, size, size) for pixels, size in zip(arrays["pixels"], sizes, strict=True)],
        prompts=[_prompt(arrays, place, int(owner)) for place, owner in enumerate(arrays["owners"])],
        expected=[Decoded(prior, mask, float(iou)) for prior, mask, iou in outputs],
    )


def _prompt(arrays: Arrays, place: int, owner: int) -> Prompt:
    points = arrays.get(f"points.{place}")
    sparse = None if points is None else SparsePrompt(points, arrays[f"labels.{place}"])
    return Prompt(owner, arrays.get(f"vector.{place}"), sparse)


def _inside(values: NDArray[np.float32], size: tuple[int, int], side: int) -> NDArray[np.float32]:
    """The part of [4g, 4g] over the square that the picture's (h, w) covers, float64-safe for a sigmoid."""
    height, width = (-(-length * len(values) // side) for length in size)
    return values[:height, :width].clip(-80, 80)


def _iou(one: NDArray[np.float32], other: NDArray[np.float32], size: tuple[int, int], side: int) -> float:
    first, second = (_inside(values, size, side) > 0 for values in (one, other))
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def _error(one: NDArray[np.float32], other: NDArray[np.float32], size: tuple[int, int], side: int) -> float:
    first, second = (1 / (1 + np.exp(-_inside(values, size, side))) for values in (one, other))
    return float(np.abs(first - second).max())
