"""ImageStore: uploaded images by their id, for a while, in this process and in the level that replicas share."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from engines.cache.codec import BadValue
from engines.cache.memory import MemoryLevel
from engines.cache.observer import CacheObserver, CountingObserver
from server.cache.redis_level import RedisLevel
from server.errors import NO_SUCH_IMAGE, NOT_FORGOTTEN, RequestRejected
from server.schemas import FieldFault
from server.stored_image import GONE, StoredImage

ID = re.compile(r"sha256:[0-9a-f]{64}")
ENTRY_BYTES = 1024
"""What an image takes besides its file, rounded up: very many tiny files must not be free."""
SWEEP_SECONDS = 60.0
MOST_OWED = 10_000
"""So many marks that could not be put are remembered."""


class ImageStore:
    """Remembers files for `seconds` since their last upload, the last used ones up to `capacity` bytes.

    With `shared`, an image that is uploaded to one replica is known to all, and one that is deleted at one is
    forgotten by all. Where that level cannot be asked, each replica knows its own.
    """

    def __init__(
        self,
        capacity: int,
        seconds: float,
        shared: RedisLevel | None = None,
        observer: CacheObserver | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._memory: MemoryLevel[StoredImage] = MemoryLevel(
            capacity, lambda image: len(image.data) + ENTRY_BYTES
        )
        self._owed: MemoryLevel[float] = MemoryLevel(MOST_OWED, lambda _: 1)
        """Until when others may know an image that was deleted here, where its mark could not be put."""
        self._seconds = seconds
        self._shared = shared
        self._observer = observer or CountingObserver()
        self._clock = clock
        self._swept = clock()

    @property
    def nbytes(self) -> int:
        """Bytes of the files in this process's memory."""
        return self._memory.nbytes

    async def put(self, id: str, data: bytes, width: int, height: int) -> StoredImage:
        """Remember a file, or remember it for longer; those not used for longest make room for it."""
        self._forget_expired()
        image = StoredImage(id, data, width, height, self._clock() + self._seconds)
        self._memory.put(id, image)
        self._owed.discard(id)
        if self._shared is not None:
            key = _key(id)
            if not await self._shared.put(key, image.encoded(), self._seconds):
                await self._shared.discard(key)  # where it may have been marked as deleted
        return image

    async def get(self, id: str) -> StoredImage:
        """The image. Raises `RequestRejected` if it is unknown, was deleted or has expired."""
        image = await self._remembered(id) or await self._fetched(id)
        if image is None:
            self._observer.miss("image")
            raise _unknown(id)
        return image

    async def require(self, id: str) -> None:
        """Raise `RequestRejected` if nobody knows an image; where that cannot be told, somebody may.

        One that was deleted here, but could not be marked, may be known to others, though Redis has lost it meanwhile.
        """
        remembered = self._memory.get(id)
        known = remembered is not None and not self._forgotten(remembered)
        known = known or (self._owed.get(id) or 0.0) > self._clock()
        if self._shared is not None and ID.fullmatch(id):
            mark = await self._shared.first_bytes(_key(id), len(GONE), "image")
            known = mark != GONE if mark or mark is None else known
        if not known:
            raise _unknown(id)

    async def discard(self, id: str) -> None:
        """Forget an image, if it is known; a mark in its place tells the other replicas.

        Raises `RequestRejected` where that could not be put: others may still know it.
        """
        self._memory.discard(id)
        if self._shared is None or not ID.fullmatch(id):
            return
        key = _key(id)
        if not await self._shared.put(key, GONE, self._seconds):
            self._owed.put(id, self._clock() + self._seconds)
            await self._shared.discard(key)  # so that no more replicas learn of it
            raise RequestRejected(
                NOT_FORGOTTEN,
                "Redis takes no mark of it; other replicas may still know the image",
                retry_after=2,
            )
        self._owed.discard(id)

    async def _remembered(self, id: str) -> StoredImage | None:
        image = self._memory.get(id)
        if image is None or self._forgotten(image):
            return None
        if self._shared is not None and await self._shared.first_bytes(_key(id), len(GONE), "image") == GONE:
            self._memory.discard(id)
            return None
        self._observer.hit("image", "memory")
        return image

    async def _fetched(self, id: str) -> StoredImage | None:
        """From the other level, where it is what its id says."""
        if self._shared is None or not ID.fullmatch(id):
            return None
        value = await self._shared.read(_key(id), "image")
        if value is None or value == GONE:
            return None
        try:
            image = await asyncio.to_thread(StoredImage.decoded, id, value)
        except BadValue:
            self._observer.bad_value("image")
            return None
        if image.expires_at <= self._clock():
            return None
        self._memory.put(id, image)
        self._observer.hit("image", "redis")
        return image

    def _forgotten(self, image: StoredImage) -> bool:
        """Forget the image if it has expired, and tell whether it had."""
        if image.expires_at > self._clock():
            return False
        self._memory.discard(image.id)
        return True

    def _forget_expired(self) -> None:
        """Now and then: an image that has expired is not given out anyway."""
        if self._clock() < self._swept + SWEEP_SECONDS:
            return
        self._swept = self._clock()
        for _, image in self._memory:
            self._forgotten(image)


def _unknown(id: str) -> RequestRejected:
    detail = f'there is no image "{id}" here: it was never uploaded, was deleted, or has expired'
    return RequestRejected(NO_SUCH_IMAGE, detail, [FieldFault(field="image.id", message=detail)])


def _key(id: str) -> str:
    return f"image:{id}"
