"""What every vision runtime offers, and the values that go in and come out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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

    `values` are float32 [C, g, g]; `fine` the finer features that SAM 2's decoder takes besides, float32
    [C / 4, 2g, 2g] and [C / 8, 4g, 4g]. Share one object between the prompts on one image.
    """

    __slots__ = ("_tensors",)

    def __init__(self, values: NDArray[np.float32], fine: Iterable[NDArray[np.float32]] = ()) -> None:
        self._tensors = (values, *fine)

    @classmethod
    def of(cls, tensors: Iterable[NDArray[np.float32]]) -> Embedding:
        """The embedding of these tensors, the coarsest first."""
        values, *fine = tensors
        return Embedding(values, fine)

    @property
    def tensors(self) -> tuple[NDArray[np.float32], ...]:
        """All of it on the host, the coarsest first."""
        return self._tensors

    @property
    def values(self) -> NDArray[np.float32]:
        """The coarsest, float32 [C, g, g], on the host."""
        return self.tensors[0]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of all tensors."""
        return tuple(values.shape for values in self._tensors)

    @property
    def nbytes(self) -> int:
        """What it takes of memory, wherever it is."""
        return sum(values.nbytes for values in self._tensors)

    def rounded(self) -> Embedding:
        """The same with values that float16 can hold."""
        return Embedding.of(map(to_half, self._tensors))


@dataclass(frozen=True, slots=True, eq=False)
class Sentence:
    """A prompt as the language model's states: `text` float32 [T, D] of its tokens, `end` float32 [D] of its end."""

    text: NDArray[np.float32]
    end: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class DecodeItem:
    """One mask to be made on one image, of a concentration vector, of points and boxes, or of both; or of a sentence.

    `vector` is float32 [D], or None where only `sparse` says what is meant; `size` the image's valid (h, w).
    """

    embedding: Embedding
    vector: NDArray[np.float32] | None
    size: tuple[int, int]
    sparse: SparsePrompt | None = None
    sentence: Sentence | None = None


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

    def features(self) -> tuple[NDArray[np.float32], ...]:
        """The embeddings on the host: an array [N, C, g, g], and one for each finer level."""
        levels = zip(*(embedding.tensors for embedding in self.embeddings), strict=True)
        return tuple(np.stack(level).astype(np.float32, copy=False) for level in levels)


@dataclass(frozen=True, slots=True, eq=False)
class SparseBatch:
    """Visual prompts of one length side by side: `guided` bool [B] tells which items have a vector; `points`
    float32 [B, P, 2] and `labels` int64 [B, P] as `SparsePrompt` has them.
    """

    guided: NDArray[np.bool_]
    points: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SentenceBatch:
    """Sentences of one length side by side: `states` float32 [B, T, D], `ends` float32 [B, D]."""

    states: NDArray[np.float32]
    ends: NDArray[np.float32]


RunDecoder = Callable[[DecodeBatch, SparseBatch | SentenceBatch | None], list[Decoded]]


def check_images(images: Sequence[Prepared], config: VisionConfig) -> None:
    """Raises `VisionFailed` for pixels of another size than the model's."""
    expected = (config.image_size, config.image_size, 3)
    for index, image in enumerate(images):
        if image.pixels.shape != expected:
            raise VisionFailed(f"image {index} is {image.pixels.shape}, the encoder takes {expected}")


def decode_all(items: Sequence[DecodeItem], config: VisionConfig, run: RunDecoder) -> list[Decoded]:
    """Check the items and `run` the decoder over all of them; the results are in the items' order.

    Those with visual prompts or sentences of one length run together, as nothing in SAM's decoder can pad a prompt
    without changing its mask; those without any run in the plain decoder.

    Raises:
        VisionFailed: names the item at fault, before anything has run; or what `run` raises.
    """
    _check_items(items, config)
    items = [_completed(item, config) for item in items]
    results: dict[int, Decoded] = {}
    for places in _by_length(items):
        group = [items[place] for place in places]
        results.update(zip(places, run(_stack_items(group, config), _stack_prompts(group)), strict=True))
    return [results[place] for place in range(len(items))]


def _completed(item: DecodeItem, config: VisionConfig) -> DecodeItem:
    """SAM 2 ends every visual prompt with a point that is none; SAM only those without a box."""
    sparse = item.sparse
    if sparse is None or config.decoder.kind == "sam" or NOT_A_POINT in sparse.labels:
        return item
    points = np.concatenate([sparse.points, np.zeros((1, 2), np.float32)])
    return replace(item, sparse=SparsePrompt(points, np.append(sparse.labels, NOT_A_POINT)))


def _by_length(items: Sequence[DecodeItem]) -> list[list[int]]:
    """The places of the items with as many sparse tokens as each other."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, item in enumerate(items):
        points = 0 if item.sparse is None else len(item.sparse.labels)
        words = 0 if item.sentence is None else len(item.sentence.text)
        groups.setdefault((points, words), []).append(place)
    return list(groups.values())


def _stack_prompts(items: Sequence[DecodeItem]) -> SparseBatch | SentenceBatch | None:
    sentences = [item.sentence for item in items if item.sentence is not None]
    if sentences:
        return SentenceBatch(
            states=np.stack([sentence.text for sentence in sentences]).astype(np.float32, copy=False),
            ends=np.stack([sentence.end for sentence in sentences]).astype(np.float32, copy=False),
        )
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
    feature_shapes = config.feature_shapes
    vector_shape = (config.vector_dim,)
    for index, item in enumerate(items):
        if item.sentence is not None:
            _check_sentence(index, item, config)
        elif item.vector is None and item.sparse is None:
            raise VisionFailed(f"item {index} has neither a vector nor points")
        if item.vector is not None and config.heatmap is None:
            raise VisionFailed(f"item {index} has a vector, but this model has no heatmap head")
        if item.vector is not None and item.vector.shape != vector_shape:
            raise VisionFailed(
                f"vector {index} is {item.vector.shape}, the heatmap head takes {vector_shape}"
            )
        if item.embedding.shapes != feature_shapes:
            told = f"embedding {index} is {' and '.join(map(str, item.embedding.shapes))}"
            raise VisionFailed(f"{told}, the decoder takes {' and '.join(map(str, feature_shapes))}")
        if item.vector is not None and not np.isfinite(item.vector).all():
            raise VisionFailed(f"vector {index} holds a value that is not finite")


def _check_sentence(index: int, item: DecodeItem, config: VisionConfig) -> None:
    sentence = item.sentence
    assert sentence is not None
    if config.adapter is None:
        raise VisionFailed(f"item {index} has a sentence, but this model has no adapter for one")
    if item.vector is not None or item.sparse is not None:
        raise VisionFailed(f"item {index} has a sentence and something else")
    width = config.adapter.state_dim
    if sentence.text.ndim != 2 or not len(sentence.text) or sentence.text.shape[1] != width:
        raise VisionFailed(f"sentence {index} is {sentence.text.shape}, the adapter takes states of {width}")
    if sentence.end.shape != (width,):
        raise VisionFailed(f"the end of sentence {index} is {sentence.end.shape}, not {(width,)}")
    if not (np.isfinite(sentence.text).all() and np.isfinite(sentence.end).all()):
        raise VisionFailed(f"sentence {index} holds a value that is not finite")


def no_priors(masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """What stands for the priors of `masks` where a decoder makes none: 0 everywhere."""
    return np.zeros_like(masks)


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


def split_embeddings(features: Sequence[NDArray[np.float32]]) -> list[Embedding]:
    """Embeddings [B, C, g, g], and finer features if there are any, as one `Embedding` for each image.

    Raises:
        VisionFailed: a value is not finite.
    """
    for level in features:
        _require_finite("embedding", level)
    return [Embedding.of(tensors) for tensors in zip(*features, strict=True)]


def _require_finite(name: str, values: NDArray[np.float32]) -> None:
    faulty = [str(index) for index, value in enumerate(values) if not np.isfinite(value).all()]
    if faulty:
        raise VisionFailed(f"the {name} of item {', '.join(faulty)} holds a value that is not finite")


def blank_image(config: VisionConfig) -> Prepared:
    """A black image of the encoder's size, to warm up with."""
    side = config.image_size
    return Prepared(np.zeros((side, side, 3), dtype=np.uint8), (side, side), (side, side))


def warm_up(runtime: VisionRuntime, buckets: Buckets) -> None:
    """Encode blank images; decode points on one and what else this model takes: vectors, a sentence; at all sizes."""
    image = blank_image(runtime.config)
    encoded = [runtime.encode([image] * count) for count in buckets.encode]
    point = SparsePrompt(np.zeros((2, 2), np.float32), np.array([1, NOT_A_POINT]))
    embedding = encoded[0][0]
    items = [DecodeItem(embedding, None, image.size, point)]
    if runtime.config.adapter is not None:
        states = np.zeros((2, runtime.config.adapter.state_dim), np.float32)
        items.append(DecodeItem(embedding, None, image.size, sentence=Sentence(states, states[0])))
    if runtime.config.heatmap is not None:
        items.append(DecodeItem(embedding, np.zeros(runtime.config.vector_dim, np.float32), image.size))
    for item in items:
        for count in buckets.decode:
            runtime.decode([item] * count)
