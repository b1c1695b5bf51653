"""ImageStore: uploaded images by their id, for a while and up to so many bytes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from server.errors import NO_SUCH_IMAGE, RequestRejected
from server.schemas import FieldFault


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An uploaded file; sizes of the upright image in pixels, `expires_at` in seconds of the Unix clock."""

    id: str
    data: bytes
    width: int
    height: int
    expires_at: float

    @property
    def expires(self) -> datetime:
        """When it will be forgotten, in UTC to the second."""
        return datetime.fromtimestamp(int(self.expires_at), UTC)


class ImageStore:
    """Remembers files for `seconds` since their last upload, the last used ones up to `capacity` bytes."""

    def __init__(self, capacity: int, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._capacity = capacity
        self._seconds = seconds
        self._clock = clock
        self._images: OrderedDict[str, StoredImage] = OrderedDict()
        self.nbytes = 0

    def put(self, id: str, data: bytes, width: int, height: int) -> StoredImage:
        """Remember a file, or remember it for longer; those not used for longest make room for it."""
        self._forget_expired()
        self.discard(id)
        image = StoredImage(id, data, width, height, self._clock() + self._seconds)
        self._images[id] = image
        self.nbytes += len(data)
        while self.nbytes > self._capacity:
            self.discard(next(iter(self._images)))
        return image

    def get(self, id: str) -> StoredImage:
        """The image. Raises `RequestRejected` if it is unknown or has expired."""
        self._forget_expired()
        image = self._images.get(id)
        if image is None:
            detail = f'there is no image "{id}" here: it was never uploaded, was deleted, or has expired'
            raise RequestRejected(NO_SUCH_IMAGE, detail, [FieldFault(field="image.id", message=detail)])
        self._images.move_to_end(id)
        return image

    def discard(self, id: str) -> None:
        """Forget an image, if it is known."""
        image = self._images.pop(id, None)
        if image is not None:
            self.nbytes -= len(image.data)

    def _forget_expired(self) -> None:
        now = self._clock()
        for id in [id for id, image in self._images.items() if image.expires_at <= now]:
            self.discard(id)
