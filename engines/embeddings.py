"""Embeddings: the image embedding of every image that is asked about, encoded once."""

from __future__ import annotations

from engines.batching import MicroBatcher
from engines.images import PreparedImage
from engines.single_flight import CacheCounts, SingleFlightCache
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import Embedding


class Embeddings:
    """Image embeddings by digest: remembered up to `capacity` bytes, else encoded in micro-batches."""

    def __init__(self, encoder: MicroBatcher[Prepared, Embedding], capacity: int) -> None:
        self._encoder = encoder
        self._cache: SingleFlightCache[Embedding] = SingleFlightCache(capacity, lambda e: e.values.nbytes)

    @property
    def counts(self) -> CacheCounts:
        """How many requests found their embedding, joined an encode under way, or began one."""
        return self._cache.counts

    async def get_or_encode(self, image: PreparedImage) -> Embedding:
        """The image's embedding; one encode per digest however many ask at once.

        Raises:
            VisionFailed: the runtime failed on this image.
            Overloaded: too many images wait to be encoded.
        """
        return await self._cache.get_or_make(image.digest, lambda: self._encoder.submit(image.vision))

    def forget(self, digest: str) -> None:
        """Remember an image's embedding no longer."""
        self._cache.discard(digest)

    async def aclose(self) -> None:
        """Stop the encodes under way."""
        await self._cache.aclose()
        await self._encoder.aclose()
