"""ImageSources: a request's image, whichever way it names it."""

from __future__ import annotations

import asyncio
import logging

from engines.errors import EngineError
from engines.images import PreparedImage
from engines.pipeline import Pipeline
from server.image_store import ImageStore
from server.images import ImageLimits, ImageLoader
from server.remote_images import RemoteImages
from server.schemas import ImageSource
from server.stored_image import StoredImage
from server.uploads import image_bytes

MAX_ENCODING = 8
"""So many uploaded images may wait for their encode; one more is encoded when it is asked about."""

logger = logging.getLogger(__name__)


class ImageSources:
    """Images that come with a request, by id or by URL; uploaded ones are encoded in the background."""

    def __init__(
        self,
        loader: ImageLoader,
        store: ImageStore,
        remote: RemoteImages,
        limits: ImageLimits,
        pipeline: Pipeline,
    ) -> None:
        self._loader = loader
        self._store = store
        self._remote = remote
        self._limits = limits
        self._pipeline = pipeline
        self._encoding: set[asyncio.Task[None]] = set()

    async def read(self, image: ImageSource | bytes) -> bytes:
        """The image's file.

        Raises:
            RequestRejected: it is not base64, the id is unknown or has expired, or the URL cannot be fetched.
            ImageRejected: it is too large.
        """
        if isinstance(image, bytes):
            return image
        if image.id is not None:
            return (await self._store.get(image.id)).data
        if image.url is not None:
            return await self._remote.fetch(image.url)
        assert image.data is not None
        return await asyncio.to_thread(image_bytes, image.data, self._limits)

    async def load(self, image: ImageSource | bytes) -> PreparedImage:
        """The image as the engines take it. Raises what `read` raises, and `ImageRejected`."""
        known = None if isinstance(image, bytes) else image.id
        return await self._loader.load(await self.read(image), known)

    async def upload(self, data: bytes) -> StoredImage:
        """Remember a file by its id and begin its encode. Raises `ImageRejected`."""
        image = await self._loader.load(data)
        stored = await self._store.put(image.digest, data, image.width, image.height)
        if len(self._encoding) < MAX_ENCODING:
            task = asyncio.create_task(self._encode(image))
            self._encoding.add(task)
            task.add_done_callback(self._encoding.discard)
        return stored

    async def find(self, id: str) -> StoredImage:
        """An uploaded image. Raises `RequestRejected` if it is unknown or has expired."""
        return await self._store.get(id)

    async def delete(self, id: str) -> None:
        """Forget an uploaded image and all that was made of it.

        Raises `RequestRejected` if nobody knows it, and when others may still do; this process then does not.
        """
        await self._store.require(id)
        try:
            await self._store.discard(id)
        finally:  # after the file, of which they would be made again
            self._loader.forget(id)
            await self._pipeline.forget(id)

    async def aclose(self) -> None:
        """Stop the encodes under way."""
        for task in self._encoding:
            task.cancel()
        await asyncio.gather(*self._encoding, return_exceptions=True)

    async def _encode(self, image: PreparedImage) -> None:
        try:
            await self._pipeline.encode(image)
        except EngineError as error:  # whoever asks about the image will be told
            logger.warning("an uploaded image was not encoded: %s: %s", type(error).__name__, error)
