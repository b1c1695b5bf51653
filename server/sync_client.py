"""The client for programs without an event loop: the same calls, run on a loop in a thread of its own."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self

import httpx
from anyio.from_thread import start_blocking_portal

from server.client import AnyImage, SegmentClient
from server.events import WireEvent
from server.retries import Retries
from server.schemas import BatchResponse, SegmentResponse, StoredImageInfo


class SyncSegmentClient:
    """`SegmentClient`, call by call, for use in a ``with`` block. It raises what that one raises."""

    def __init__(
        self, url: str, transport: httpx.AsyncBaseTransport | None = None, retries: Retries | None = None
    ) -> None:
        self._client = SegmentClient(url, transport, retries)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._portal.wrap_async_context_manager(self._client))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def segment(self, image: AnyImage, prompt: str | None = None, **options: object) -> SegmentResponse:
        """As `SegmentClient.segment`."""
        return self._portal.call(partial(self._client.segment, image, prompt, **options))

    def stream(
        self, image: AnyImage, prompt: str | None = None, **options: object
    ) -> Generator[WireEvent, None, None]:
        """As `SegmentClient.stream`. Close the generator to stop the work."""
        events = self._client.stream(image, prompt, **options)
        try:
            while (event := self._portal.call(partial(anext, events, None))) is not None:
                yield event
        finally:
            self._portal.call(events.aclose)

    def segment_all(self, image: AnyImage, requests: Sequence[Mapping[str, object]]) -> BatchResponse:
        """As `SegmentClient.segment_all`."""
        return self._portal.call(self._client.segment_all, image, requests)

    def upload(self, image: bytes) -> StoredImageInfo:
        """As `SegmentClient.upload`."""
        return self._portal.call(self._client.upload, image)

    def delete(self, id: str) -> None:
        """As `SegmentClient.delete`."""
        self._portal.call(self._client.delete, id)

    def ready(self) -> bool:
        """As `SegmentClient.ready`."""
        return self._portal.call(self._client.ready)
