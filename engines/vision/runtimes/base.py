"""What every vision runtime offers, and the values that go in and come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.errors import VisionFailed
from engines.vision.config import VisionConfig
from engines.vision.preprocess import Prepared


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """An image embedding: `values` float32 [C, g, g]. Share one object between the prompts on one image."""

    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class DecodeItem:
    """One concentration vector on one image: `vector` float32 [D], `size` the image's valid (h, w)."""

    embedding: Embedding
    vector: NDArray[np.float32]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """`prior_logits` and `mask_logits` float32 [4g, 4g] over the padded square, `iou` the predicted IoU."""

    prior_logits: NDArray[np.float32]
    mask_logits: NDArray[np.float32]
    iou: float


class VisionRuntime(Protocol):
    """Runs one vision model. Calls block and may come from several threads at once.

    A call either serves all its items or raises `VisionFailed`, before any work where the fault is in the
    input; the items of a failed call may be tried one by one.
    """

    @property
    def config(self) -> VisionConfig:
        """The sizes of the model that runs."""
        ...

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        """One embedding for each image, in order."""
        ...

    def decode(self, items: Sequence[DecodeItem]) -> list[Decoded]:
        """One result for each item, in order."""
        ...

    def warm_up(self) -> None:
        """Run encoder and decoder once, so that the first request pays for nothing."""
        ...

    def info(self) -> dict[str, str | int]:
        """What runs, for logs and for `/v1/models`: name, version, precision, threads."""
        ...

    def close(self) -> None:
        """Free the model; no call may follow."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DecodeBatch:
    """Items side by side: `embeddings` [N, C, g, g], each image once; `owners` int64 [B] indexes them;
    `vectors` float32 [B, D]; `sizes` int64 [B, 2].
    """

    embeddings: NDArray[np.float32]
    vectors: NDArray[np.float32]
    sizes: NDArray[np.int64]
    owners: NDArray[np.int64]


def check_images(images: Sequence[Prepared], config: VisionConfig) -> None:
    """Raises `VisionFailed` for pixels of another size than the model's."""
    expected = (config.image_size, config.image_size, 3)
    for index, image in enumerate(images):
        if image.pixels.shape != expected:
            raise VisionFailed(f"image {index} is {image.pixels.shape}, the encoder takes {expected}")


def stack_items(items: Sequence[DecodeItem], config: VisionConfig) -> DecodeBatch:
    """Check the items and lay them side by side. Raises `VisionFailed` naming the item at fault."""
    _check_items(items, config)
    distinct = list({id(item.embedding): item.embedding for item in items}.values())
    places = {id(embedding): place for place, embedding in enumerate(distinct)}
    return DecodeBatch(
        embeddings=np.stack([embedding.values for embedding in distinct]).astype(np.float32, copy=False),
        vectors=np.stack([item.vector for item in items]).astype(np.float32, copy=False),
        sizes=np.array([item.size for item in items], dtype=np.int64),
        owners=np.array([places[id(item.embedding)] for item in items], dtype=np.int64),
    )


def _check_items(items: Sequence[DecodeItem], config: VisionConfig) -> None:
    embedding_shape = (config.decoder.transformer_dim, config.grid, config.grid)
    vector_shape = (config.heatmap.vector_dim,)
    for index, item in enumerate(items):
        if item.vector.shape != vector_shape:
            raise VisionFailed(
                f"vector {index} is {item.vector.shape}, the heatmap head takes {vector_shape}"
            )
        if item.embedding.values.shape != embedding_shape:
            shape = item.embedding.values.shape
            raise VisionFailed(f"embedding {index} is {shape}, the decoder takes {embedding_shape}")
        if not np.isfinite(item.vector).all():
            raise VisionFailed(f"vector {index} holds a value that is not finite")


def split_outputs(
    prior_logits: NDArray[np.float32], mask_logits: NDArray[np.float32], iou: NDArray[np.float32]
) -> list[Decoded]:
    """Outputs [B, 1, 4g, 4g], [B, 1, 4g, 4g] and [B, 1] as one `Decoded` each.

    Raises:
        VisionFailed: the network produced a value that is not finite.
    """
    for name, values in (("prior", prior_logits), ("mask", mask_logits), ("IoU", iou)):
        _require_finite(name, values)
    return [
        Decoded(prior[0], mask[0], float(score[0]))
        for prior, mask, score in zip(prior_logits, mask_logits, iou, strict=True)
    ]


def split_embeddings(embeddings: NDArray[np.float32]) -> list[Embedding]:
    """Embeddings [B, C, g, g] as one `Embedding` each. Raises `VisionFailed` for a value that is not finite."""
    _require_finite("embedding", embeddings)
    return [Embedding(values) for values in embeddings]


def _require_finite(name: str, values: NDArray[np.float32]) -> None:
    faulty = [str(index) for index, value in enumerate(values) if not np.isfinite(value).all()]
    if faulty:
        raise VisionFailed(f"the {name} of item {', '.join(faulty)} holds a value that is not finite")


def blank_image(config: VisionConfig) -> Prepared:
    """A black image of the encoder's size, to warm up with."""
    side = config.image_size
    return Prepared(np.zeros((side, side, 3), dtype=np.uint8), (side, side), (side, side))


def warm_up(runtime: VisionRuntime) -> None:
    """Encode a blank image and decode one and two blank prompts on it."""
    image = blank_image(runtime.config)
    [embedding] = runtime.encode([image])
    item = DecodeItem(embedding, np.zeros(runtime.config.heatmap.vector_dim, np.float32), image.size)
    runtime.decode([item])
    runtime.decode([item, item])
