"""Embeddings: the image embedding of every image that is asked about, encoded once."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from engines.batching import MicroBatcher, OnTurn
from engines.cache.codec import BadValue, Shape, decode, encode, encoded_bytes
from engines.cache.observer import CacheObserver, CountingObserver
from engines.cache.shared import Found, Leased, LeaseLost, SharedLevel, claim_or_wait, held, yield_no_more
from engines.cache.single_flight import SingleFlightCache
from engines.images import PreparedImage
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import Embedding, VisionRuntime

FEATURES_VERSION = 1
"""Raise it when the code around the encoder changes what the same weights make of the same image."""
SPEED_ONLY = frozenset({"threads"})
"""What a runtime says of itself that does not change its features."""


@dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """Whose features an embedding holds: `fingerprint` is 32 bytes, `shapes` those of its tensors."""

    fingerprint: bytes
    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, vision_digest: str, vision: VisionRuntime) -> EncoderIdentity:
        """Of the bundle's vision part with that digest (weights and config) in that runtime."""
        numerics = {name: value for name, value in vision.info().items() if name not in SPEED_ONLY}
        shapes = vision.config.feature_shapes
        text = json.dumps([FEATURES_VERSION, vision_digest, numerics, shapes], sort_keys=True)
        return cls(hashlib.sha256(text.encode()).digest(), shapes)


@dataclass(frozen=True, slots=True)
class SharedEmbeddings:
    """The level that replicas share, and the encoder whose embeddings it holds for this one."""

    level: SharedLevel
    encoder: EncoderIdentity

    @property
    def usable(self) -> bool:
        """Whether embeddings are small enough for the level."""
        return self.level.takes(encoded_bytes(self.encoder.shapes))

    def key(self, digest: str) -> str:
        """Where the embedding of an image is."""
        return f"embedding:{self.encoder.fingerprint.hex()}:{digest}"


@dataclass(frozen=True, slots=True, eq=False)
class _Unhurried:
    """An image in the making that nobody is in a hurry for, until `hurry` is set."""

    image: Prepared
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


def rounded(
    run: Callable[[Sequence[Prepared]], list[Embedding]],
) -> Callable[[Sequence[Prepared]], list[Embedding]]:
    """`run` with its embeddings rounded to float16, so that they are the same whether fresh or from any level."""
    return lambda images: [embedding.rounded() for embedding in run(images)]


class Embeddings:
    """Image embeddings by digest: remembered up to `capacity` bytes, else shared, else encoded in micro-batches.

    `encoder` gives embeddings that float16 can hold (`rounded`). One encode per image however many ask, in this
    process and, with `shared`, in all replicas.
    """

    def __init__(
        self,
        encoder: MicroBatcher[Prepared, Embedding],
        capacity: int,
        shared: SharedEmbeddings | None = None,
        observer: CacheObserver | None = None,
    ) -> None:
        self._encoder = encoder
        self._shared = shared if shared is not None and shared.usable else None
        self._observer = observer or CountingObserver()
        self._cache: SingleFlightCache[Embedding] = SingleFlightCache(
            capacity, lambda embedding: embedding.nbytes
        )
        self._patient: dict[str, _Unhurried] = {}
        """By digest."""

    async def get_or_encode(self, image: PreparedImage, *, patient: bool = False) -> Embedding:
        """The image's embedding. While only `patient` ones wait for it, other images are encoded first.

        Raises:
            VisionFailed: the runtime failed on this image.
            Overloaded: too many images wait to be encoded.
        """
        if image.digest in self._cache:
            self._observer.hit("embedding", "memory")
        elif self._cache.in_making(image.digest):
            self._observer.joined("embedding")
        elif patient:
            self._patient[image.digest] = _Unhurried(image.vision)
        if not patient and (waiting := self._patient.pop(image.digest, None)) is not None:
            waiting.hurry.set()
            self._encoder.hasten(waiting.image)
        try:
            return await self._cache.get_or_make(image.digest, lambda: self._obtain(image))
        finally:
            if not self._cache.in_making(image.digest):
                self._patient.pop(image.digest, None)

    async def forget(self, digest: str) -> None:
        """Remember an image's embedding no longer, in either level."""
        self._cache.discard(digest)
        if self._shared is not None:
            await self._shared.level.forget(self._shared.key(digest))

    async def aclose(self) -> None:
        """Stop the encodes under way."""
        await self._cache.aclose()
        await self._encoder.aclose()

    async def _obtain(self, image: PreparedImage) -> Embedding:
        """From the shared level, or else made."""
        if self._shared is None:
            return await self._encode(image)
        known = await self._known_or_leased(self._shared, image.digest)
        if isinstance(known, Embedding):
            return known
        try:
            return await self._encode_to_share(self._shared, image, known)
        except LeaseLost:
            return await self._obtain_again(self._shared, image)

    async def _obtain_again(self, shared: SharedEmbeddings, image: PreparedImage) -> Embedding:
        """From whoever has the lease now, or else made; not shared if the image may have been forgotten meanwhile."""
        self._patient.pop(image.digest, None)  # its turn had come
        known = await self._known_or_leased(shared, image.digest, again=True)
        if isinstance(known, Embedding):
            return known
        if known is None:
            return await self._encode(image)
        return await self._encode_to_share(shared, image, known)

    async def _known_or_leased(
        self, shared: SharedEmbeddings, digest: str, *, again: bool = False
    ) -> Embedding | Leased | None:
        """What the shared level has, or else a lease, or None if nobody tells.

        The lease yields while nobody is in a hurry, but not if it is claimed `again` because one was lost. A value
        that cannot be used is put out of the way first.
        """
        key = shared.key(digest)
        for _ in range(2):
            claim = await claim_or_wait(
                shared.level, key, lambda: digest in self._patient and not again, again=again
            )
            if not isinstance(claim, Found):
                return claim if isinstance(claim, Leased) else None
            if (embedding := await self._decoded(shared, claim.value)) is not None:
                return embedding
            await shared.level.discard(key)
        return None

    async def _decoded(self, shared: SharedEmbeddings, value: bytes) -> Embedding | None:
        encoder = shared.encoder
        try:
            tensors = await asyncio.to_thread(decode, value, encoder.fingerprint, encoder.shapes)
        except BadValue:
            self._observer.bad_value("embedding")
            return None
        self._observer.hit("embedding", "redis")
        return Embedding.of(tensors)

    async def _encode_to_share(
        self, shared: SharedEmbeddings, image: PreparedImage, lease: Leased | None
    ) -> Embedding:
        """Encoded for all replicas. Raises LeaseLost: the lease was lost before its turn came."""
        key = shared.key(image.digest)
        token = lease.token if lease else None
        confirm = partial(yield_no_more, shared.level, key, lease.token) if lease and lease.yielding else None
        try:
            async with held(shared.level, key, lease, self._hurry(image.digest)):
                embedding = await self._encode(image, confirm)
        except BaseException:
            if token is not None:
                shared.level.give_up(key, token)
            raise
        if not self._cache.wanted(image.digest):
            if token is not None:
                shared.level.give_up(key, token)
            return embedding
        shared.level.publish(key, lambda: encode(embedding.tensors, shared.encoder.fingerprint), token)
        return embedding

    def _hurry(self, digest: str) -> asyncio.Event:
        """Set as soon as somebody is in a hurry for the image."""
        if (waiting := self._patient.get(digest)) is not None:
            return waiting.hurry
        hurry = asyncio.Event()
        hurry.set()
        return hurry

    async def _encode(self, image: PreparedImage, confirm: OnTurn | None = None) -> Embedding:
        """Encoded in its turn, if `confirm` does not raise then."""

        async def begin() -> None:
            if confirm is not None:
                await confirm()
            self._observer.miss("embedding")  # a lease that is lost by now would count once more

        patient = image.digest in self._patient
        return await self._encoder.submit(image.vision, patient=patient, on_turn=begin)
