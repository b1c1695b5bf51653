"""What the runtimes on a GPU share: embeddings that stay on the device, and batches in buckets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import NoneType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.cache.codec import LARGEST
from engines.errors import VisionFailed
from engines.vision.buckets import DEVICE_BUCKETS, Buckets, chunks
from engines.vision.config import VisionConfig
from engines.vision.preprocess import Prepared
from engines.vision.runtimes import base
from engines.vision.runtimes.networks import Array, Lane, Network, Rows


class DeviceEmbedding(base.Embedding):
    """An image embedding on a device: `resident` are its tensors there, float16; `tensors` copies them each time."""

    __slots__ = ("resident",)

    def __init__(self, resident: tuple[Tensor, ...]) -> None:
        self.resident = resident

    @property
    def tensors(self) -> tuple[NDArray[np.float32], ...]:
        """All of it as float32 on the host, the coarsest first."""
        return tuple(level.cpu().float().numpy() for level in self.resident)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of all tensors."""
        return tuple(tuple(level.shape) for level in self.resident)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(level.nbytes for level in self.resident)

    def rounded(self) -> DeviceEmbedding:
        """Itself: it holds float16."""
        return self


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of one model: the encoder, and a decoder for each kind of prompt that the model takes.

    Decoders give prior logits, mask logits and IoUs, the one of sentences no prior logits. They take features under
    the names that `feature_names` gives.
    """

    encoder: Network
    decoder: Network | None
    prompted: Network
    sentences: Network | None = None


def feature_names(levels: int) -> list[str]:
    """What the tensors of an embedding, so many, are called among a decoder's inputs."""
    return ["embeddings", *(f"fine_{level}" for level in range(1, levels))]


class DeviceRuntime:
    """A `VisionRuntime` of networks on one device."""

    def __init__(
        self,
        config: VisionConfig,
        device: torch.device,
        networks: Networks,
        about: dict[str, str | int],
    ) -> None:
        """`about` is what `info` says."""
        self._config = config
        self._about = about
        self._encoder = Lane(networks.encoder, device, DEVICE_BUCKETS.encode[-1], graphs=True)
        # As many shapes as there are numbers of points, and of words: too many to capture.
        self._decoders = {
            kind: Lane(network, device, DEVICE_BUCKETS.decode[-1], graphs=kind is NoneType)
            for kind, network in (
                (NoneType, networks.decoder),
                (base.SparseBatch, networks.prompted),
                (base.SentenceBatch, networks.sentences),
            )
            if network is not None
        }

    @property
    def config(self) -> VisionConfig:
        """The sizes of the model that runs."""
        return self._config

    def encode(self, images: Sequence[Prepared]) -> list[base.Embedding]:
        """One embedding for each image, in order; they stay on the device."""
        base.check_images(images, self._config)
        if not images:
            return []
        embeddings: list[base.Embedding] = []
        for part, bucket in chunks(len(images), DEVICE_BUCKETS.encode):
            here = images[part]
            values: dict[str, Rows] = {
                "pixels": np.stack([image.pixels for image in here]),
                "sizes": np.array([image.size for image in here], dtype=np.int64),
            }
            take = partial(_split_embeddings, count=len(here), first=part.start)
            embeddings += self._encoder.run(bucket, values, take)
        return embeddings

    def decode(self, items: Sequence[base.DecodeItem]) -> list[base.Decoded]:
        """One result for each item, in order."""
        return base.decode_all(items, self._config, self._decode)

    def _decode(
        self, batch: base.DecodeBatch, prompts: base.SparseBatch | base.SentenceBatch | None
    ) -> list[base.Decoded]:
        lane, names = self._decoders[type(prompts)], feature_names(len(self._config.feature_shapes))
        arrays = _arrays(batch, prompts)
        decoded: list[base.Decoded] = []
        for part, bucket in chunks(len(batch.owners), DEVICE_BUCKETS.decode):
            needed, owners = np.unique(batch.owners[part], return_inverse=True)
            values: dict[str, Rows] = {name: array[part] for name, array in arrays.items()}
            values["owners"] = np.pad(
                owners.astype(np.int64), (0, bucket - len(owners))
            )  # none of a former run's
            features = [_resident(batch.embeddings[place]) for place in needed]
            values |= zip(names, zip(*features, strict=True), strict=True)
            *prior, masks, iou = lane.run(bucket, values, partial(_to_host, count=len(owners)))
            decoded += base.split_outputs(prior[0] if prior else base.no_priors(masks), masks, iou)
        return decoded

    def warm_up(self, buckets: Buckets | None = None) -> None:
        """Run every bucket once, which compiles, captures and allocates what it needs."""
        base.warm_up(self, buckets or DEVICE_BUCKETS)

    def info(self) -> dict[str, str | int]:
        """What runs: name, versions, device and precisions."""
        return dict(self._about)

    def close(self) -> None:
        """Free weights, buffers and graphs."""
        for lane in (self._encoder, *self._decoders.values()):
            lane.release()


def _arrays(
    batch: base.DecodeBatch, prompts: base.SparseBatch | base.SentenceBatch | None
) -> dict[str, Array]:
    """What a decoder takes of every item."""
    if isinstance(prompts, base.SentenceBatch):
        return {"states": prompts.states, "ends": prompts.ends}
    arrays: dict[str, Array] = {"vectors": batch.vectors, "sizes": batch.sizes}
    if prompts is not None:
        arrays |= {"guided": prompts.guided, "points": prompts.points, "labels": prompts.labels}
    return arrays


def _resident(embedding: base.Embedding) -> tuple[Tensor, ...] | tuple[NDArray[np.float32], ...]:
    return embedding.resident if isinstance(embedding, DeviceEmbedding) else embedding.tensors


def _split_embeddings(outputs: Sequence[Tensor], count: int, first: int) -> list[DeviceEmbedding]:
    """Copies of the first `count` embeddings; `first` is the number of the first of them in the call."""
    sound = [torch.isfinite(level[:count]).flatten(1).all(dim=1) for level in outputs]
    finite = torch.stack(sound).all(dim=0).tolist()
    faulty = [str(first + place) for place, good in enumerate(finite) if not good]
    if faulty:
        raise VisionFailed(f"the embedding of item {', '.join(faulty)} holds a value that is not finite")
    # One copy for each: a slice of all would keep all of them.
    return [
        DeviceEmbedding(tuple(level[place].clamp(-LARGEST, LARGEST).half() for level in outputs))
        for place in range(count)
    ]


def _to_host(outputs: Sequence[Tensor], count: int) -> tuple[NDArray[np.float32], ...]:
    return tuple(output[:count].float().cpu().numpy() for output in outputs)
