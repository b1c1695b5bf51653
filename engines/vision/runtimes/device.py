"""What the runtimes on a GPU share: embeddings that stay on the device, and batches in buckets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

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
    """An image embedding on a device: `tensor` float16 [C, g, g]; `tensors` copies it to the host each time."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def tensors(self) -> tuple[NDArray[np.float32], ...]:
        """float32 [C, g, g], on the host."""
        host: NDArray[np.float32] = self.tensor.cpu().float().numpy()
        return (host,)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """(C, g, g)."""
        return (tuple(self.tensor.shape),)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.tensor.nbytes

    def rounded(self) -> DeviceEmbedding:
        """Itself: it holds float16."""
        return self


class DeviceRuntime:
    """A `VisionRuntime` of three networks on one device: encoder, decoder, and decoder with points and boxes."""

    def __init__(
        self,
        config: VisionConfig,
        device: torch.device,
        networks: tuple[Network, Network | None, Network],
        about: dict[str, str | int],
    ) -> None:
        """`about` is what `info` says. A model without a heatmap head has no plain decoder."""
        self._config = config
        self._about = about
        encoder, decoder, prompted = networks
        self._encoder = Lane(encoder, device, DEVICE_BUCKETS.encode[-1], graphs=True)
        most = DEVICE_BUCKETS.decode[-1]
        self._decoder = Lane(decoder, device, most, graphs=True) if decoder is not None else None
        # As many shapes as there are numbers of points: too many to capture.
        self._prompted = Lane(prompted, device, most, graphs=False)

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
        self, batch: base.DecodeBatch, sparse: base.SparseBatch | base.SentenceBatch | None
    ) -> list[base.Decoded]:
        assert not isinstance(sparse, base.SentenceBatch), "models with an adapter are not opened here"
        lane = self._decoder if sparse is None else self._prompted
        assert lane is not None, "without a heatmap head every item has points"
        arrays: dict[str, Array] = {"vectors": batch.vectors, "sizes": batch.sizes}
        if sparse is not None:
            arrays |= {"guided": sparse.guided, "points": sparse.points, "labels": sparse.labels}
        decoded: list[base.Decoded] = []
        for part, bucket in chunks(len(batch.owners), DEVICE_BUCKETS.decode):
            needed, owners = np.unique(batch.owners[part], return_inverse=True)
            values: dict[str, Rows] = {name: array[part] for name, array in arrays.items()}
            values["owners"] = owners.astype(np.int64)
            values["embeddings"] = [_resident(batch.embeddings[place]) for place in needed]
            host = lane.run(bucket, values, partial(_to_host, count=len(owners)))
            decoded += base.split_outputs(*host)
        return decoded

    def warm_up(self, buckets: Buckets | None = None) -> None:
        """Run every bucket once, which compiles, captures and allocates what it needs."""
        base.warm_up(self, buckets or DEVICE_BUCKETS)

    def info(self) -> dict[str, str | int]:
        """What runs: name, versions, device and precisions."""
        return dict(self._about)

    def close(self) -> None:
        """Free weights, buffers and graphs."""
        for lane in (self._encoder, self._decoder, self._prompted):
            if lane is not None:
                lane.release()


def _resident(embedding: base.Embedding) -> Tensor | NDArray[np.float32]:
    return embedding.tensor if isinstance(embedding, DeviceEmbedding) else embedding.values


def _split_embeddings(outputs: Sequence[Tensor], count: int, first: int) -> list[DeviceEmbedding]:
    """Copies of the first `count` embeddings; `first` is the number of the first of them in the call."""
    [batch] = outputs
    finite = torch.isfinite(batch[:count]).flatten(1).all(dim=1).tolist()
    faulty = [str(first + place) for place, good in enumerate(finite) if not good]
    if faulty:
        raise VisionFailed(f"the embedding of item {', '.join(faulty)} holds a value that is not finite")
    # One copy for each: a slice of all would keep all of them.
    return [DeviceEmbedding(one.clamp(-LARGEST, LARGEST).half()) for one in batch[:count]]


def _to_host(outputs: Sequence[Tensor], count: int) -> tuple[NDArray[np.float32], ...]:
    return tuple(output[:count].float().cpu().numpy() for output in outputs)
