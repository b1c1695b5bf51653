"""What every vision runtime offers, and the values that go in and come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.cache.codec import to_half
from engines.errors import VisionFailed
from engines.vision.buckets import Buckets
from engines.vision.config import VisionConfig
from engines.vision.preprocess import Prepared
from engines.vision.visual_prompt import NOT_A_POINT, SparsePrompt


class Embedding:
    """An image embedding, in host memory; runtimes on a device have a kind of their own, which stays there.

    Share one object between the prompts on one image.
    """

    __slots__ = ("_values",)

    def __init__(self, values: NDArray[np.float32]) -> None:
        self._values = values

    @property
    def values(self) -> NDArray[np.float32]:
        """float32 [C, g, g], on the host."""
        return self._values

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, g, g)."""
        return self._values.shape

    @property
    def nbytes(self) -> int:
        """What it takes of memory, wherever it is."""
        return self._values.nbytes

    def rounded(self) -> Embedding:
        """The same with values that float16 can hold."""
        return Embedding(to_half(self._values))


@dataclass(frozen=True, slots=True, eq=False)
class DecodeItem:
    """One mask to be made on one image, of a concentration vector, of points and boxes, or of both.

    `vector` is float32 [D], or None where only `sparse` says what is meant; `size` the image's valid (h, w).
    """

    embedding: Embedding
    vector: NDArray[np.float32] | None
    size: tuple[int, int]
    sparse: SparsePrompt | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """`prior_logits` and `mask_logits` float32 [4g, 4g] over the padded square, `iou` the predicted IoU.

    Where there was no vector, the prior means nothing.
    """

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

    def warm_up(self, buckets: Buckets | None = None) -> None:
        """Run encoder and decoder at these batch sizes, else at all that are made ready beforehand.

        The first request then pays for nothing.
        """
        ...

    def info(self) -> dict[str, str | int]:
        """What runs, for logs and for `/v1/models`: name, version, precision, threads."""
        ...

    def close(self) -> None:
        """Free the model; no call may follow."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class DecodeBatch:
    """Items side by side: N `embeddings`, each image once; `owners` int64 [B] indexes them;
    `vectors` float32 [B, D], 0 where there is none; `sizes` int64 [B, 2].
    """

    embeddings: Sequence[Embedding]
    vectors: NDArray[np.float32]
    sizes: NDArray[np.int64]
    owners: NDArray[np.int64]

    def stacked(self) -> NDArray[np.float32]:
        """The embeddings on the host, as one array [N, C, g, g]."""
        return np.stack([embedding.values for embedding in self.embeddings]).astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class SparseBatch:
    """Visual prompts of one length side by side: `guided` bool [B] tells which items have a vector; `points`
    float32 [B, P, 2] and `labels` int64 [B, P] as `SparsePrompt` has them.
    """

    guided: NDArray[np.bool_]
    points: NDArray[np.float32]
    labels: NDArray[np.int64]


RunDecoder = Callable[[DecodeBatch, SparseBatch | None], list[Decoded]]


def check_images(images: Sequence[Prepared], config: VisionConfig) -> None:
    """Raises `VisionFailed` for pixels of another size than the model's."""
    expected = (config.image_size, config.image_size, 3)
    for index, image in enumerate(images):
        if image.pixels.shape != expected:
            raise VisionFailed(f"image {index} is {image.pixels.shape}, the encoder takes {expected}")


def decode_all(items: Sequence[DecodeItem], config: VisionConfig, run: RunDecoder) -> list[Decoded]:
    """Check the items and `run` the decoder over all of them; the results are in the items' order.

    Those with visual prompts of one length run together, as nothing in SAM's decoder can pad a prompt without
    changing its mask; those without any run in the plain decoder.

    Raises:
        VisionFailed: names the item at fault, before anything has run; or what `run` raises.
    """
    _check_items(items, config)
    results: dict[int, Decoded] = {}
    for places in _by_length(items):
        group = [items[place] for place in places]
        results.update(zip(places, run(_stack_items(group, config), _stack_sparse(group)), strict=True))
    return [results[place] for place in range(len(items))]


def _by_length(items: Sequence[DecodeItem]) -> list[list[int]]:
    """The places of the items with as many sparse tokens as each other."""
    groups: dict[int, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(0 if item.sparse is None else len(item.sparse.labels), []).append(place)
    return list(groups.values())


def _stack_sparse(items: Sequence[DecodeItem]) -> SparseBatch | None:
    prompts = [item.sparse for item in items if item.sparse is not None]
    if not prompts:
        return None
    return SparseBatch(
        guided=np.array([item.vector is not None for item in items]),
        points=np.stack([prompt.points for prompt in prompts]),
        labels=np.stack([prompt.labels for prompt in prompts]),
    )


def _stack_items(items: Sequence[DecodeItem], config: VisionConfig) -> DecodeBatch:
    """Lay items side by side that `decode_all` has checked."""
    blank = np.zeros(config.vector_dim, np.float32)
    vectors = [blank if item.vector is None else item.vector for item in items]
    distinct = list({id(item.embedding): item.embedding for item in items}.values())
    places = {id(embedding): place for place, embedding in enumerate(distinct)}
    return DecodeBatch(
        embeddings=distinct,
        vectors=np.stack(vectors).astype(np.float32, copy=False),
        sizes=np.array([item.size for item in items], dtype=np.int64),
        owners=np.array([places[id(item.embedding)] for item in items], dtype=np.int64),
    )


def _check_items(items: Sequence[DecodeItem], config: VisionConfig) -> None:
    embedding_shape = (config.decoder.transformer_dim, config.grid, config.grid)
    vector_shape = (config.vector_dim,)
    for index, item in enumerate(items):
        if item.vector is None and item.sparse is None:
            raise VisionFailed(f"item {index} has neither a vector nor points")
        if item.vector is not None and config.heatmap is None:
            raise VisionFailed(f"item {index} has a vector, but this model has no heatmap head")
        if item.vector is not None and item.vector.shape != vector_shape:
            raise VisionFailed(
                f"vector {index} is {item.vector.shape}, the heatmap head takes {vector_shape}"
            )
        if item.embedding.shape != embedding_shape:
            shape = item.embedding.shape
            raise VisionFailed(f"embedding {index} is {shape}, the decoder takes {embedding_shape}")
        if item.vector is not None and not np.isfinite(item.vector).all():
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


def warm_up(runtime: VisionRuntime, buckets: Buckets) -> None:
    """Encode blank images; decode points on one and, with a heatmap head, vectors; at all of these sizes."""
    image = blank_image(runtime.config)
    encoded = [runtime.encode([image] * count) for count in buckets.encode]
    point = SparsePrompt(np.zeros((2, 2), np.float32), np.array([1, NOT_A_POINT]))
    embedding = encoded[0][0]
    items = [DecodeItem(embedding, None, image.size, point)]
    if runtime.config.heatmap is not None:
        items.append(DecodeItem(embedding, np.zeros(runtime.config.vector_dim, np.float32), image.size))
    for item in items:
        for count in buckets.decode:
            runtime.decode([item] * count)
