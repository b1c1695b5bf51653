"""A client of the server, for the command line, the evaluation, the tests and applications."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from engines.near import is_near
from engines.vision import masks
from server.bearer import bearer
from server.events import ErrorEvent, WireEvent
from server.retries import NEVER, Retries, seconds_of
from server.schemas import (
    BatchBody,
    BatchResponse,
    HiddenInfo,
    ImageSource,
    MaskInfo,
    ModelInfo,
    ModelList,
    Problem,
    SegmentBody,
    SegmentOptions,
    SegmentResponse,
    StoredImageInfo,
    UnionInfo,
)
from server.sse import read_events
from server.urls import http_url

CONNECT_SECONDS = 5.0
READ_SECONDS = 660.0  # longer than any deadline the server accepts

Answer = TypeVar("Answer", bound=BaseModel)
AnyImage = bytes | ImageSource


class SegmentFailed(Exception):
    """The server did not answer with masks. `status` is 0 when it did not answer at all.

    `problem` is its problem document, if it sent one; `retry_after` are the seconds to wait before trying again, if it
    said so.
    """

    retry_after: float | None = None

    def __init__(self, message: str, status: int = 0, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


class ServerAway(SegmentFailed):
    """Nothing answers at the URL, or nothing can be asked with such a URL or key."""


def uploaded(id: str) -> ImageSource:
    """The image that was uploaded and got this id."""
    return ImageSource(id=id)


def at_url(url: str) -> ImageSource:
    """The image at a URL whose host the server's operator allows."""
    return ImageSource(url=url)


def pixels(mask: MaskInfo | HiddenInfo | UnionInfo) -> NDArray[np.bool_]:
    """A mask as bool [H, W], upright as the image is."""
    return masks.decode(mask.rle)


class SegmentClient:
    """Talks to one server. Every method raises `SegmentFailed`, or `ServerAway` if nobody answers.

    Images are the bytes of a file, `uploaded` or `at_url`. Refusals that are worth it are tried again as `retries`
    says. `key` is an API key, where the server asks for one.
    """

    def __init__(
        self,
        url: str,
        transport: httpx.AsyncBaseTransport | None = None,
        retries: Retries | None = None,
        key: str | None = None,
    ) -> None:
        try:
            self.url, headers = http_url(url), bearer(key)
        except ValueError as error:
            raise ServerAway(str(error)) from error
        self._retries = retries or Retries()
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=None)
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                headers=headers,
                timeout=timeout,
                limits=limits,
                transport=transport,
                trust_env=not is_near(self.url),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            # a proxy of the environment that httpx cannot use
            raise ServerAway(f"no way to {self.url}: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def segment(self, image: AnyImage, prompt: str | None = None, **options: object) -> SegmentResponse:
        """Segment what `prompt`, or a `box` or `points`, mean in the image; `options` are those of `SegmentOptions`.

        Raises:
            ValidationError: an option is unknown or has no such value.
        """
        response = await self._send("POST", "/v1/segment", **_request(image, prompt, options))
        return self._read(SegmentResponse, response)

    async def stream(
        self, image: AnyImage, prompt: str | None = None, **options: object
    ) -> AsyncGenerator[WireEvent, None]:
        """The same, event by event as the server tells them. Close the iterator to stop the work.

        Raises:
            ValidationError: as `segment`.
            SegmentFailed: an `error` event came, or the stream broke off.
        """
        request = _request(image, prompt, options)
        async with self._open(
            "POST", "/v1/segment", headers={"Accept": "text/event-stream"}, **request
        ) as answer:
            try:
                async with aclosing(read_events(answer.aiter_lines())) as events:
                    async for event in events:
                        if isinstance(event, ErrorEvent):
                            failed = _failed(event.problem)
                            failed.retry_after = event.retry_after
                            raise failed
                        yield event
                        if event.type == "done":
                            return
            except ValidationError as error:
                raise self._stranger(answer) from error
        raise SegmentFailed(f"the stream from {self.url} broke off")

    async def segment_all(self, image: AnyImage, requests: Sequence[Mapping[str, object]]) -> BatchResponse:
        """Several requests on one image, each a mapping with `prompt` and options. Failures are in the results."""
        source = image if isinstance(image, ImageSource) else uploaded((await self.upload(image)).id)
        asked = [_options(dict(request)) for request in requests]
        body = BatchBody(image=source, requests=asked).model_dump(mode="json", exclude_unset=True)
        return self._read(BatchResponse, await self._send("POST", "/v1/segment/batch", json=body))

    async def upload(self, image: bytes) -> StoredImageInfo:
        """Send an image file once; its id can be asked about until it expires."""
        headers = {"Content-Type": "application/octet-stream"}
        response = await self._send("POST", "/v1/images", content=image, headers=headers)
        return self._read(StoredImageInfo, response)

    async def delete(self, id: str) -> None:
        """Have an uploaded image forgotten."""
        await self._send("DELETE", f"/v1/images/{id}")

    async def models(self) -> list[ModelInfo]:
        """What is served; there is one model."""
        return self._read(ModelList, await self._send("GET", "/v1/models")).data

    async def ready(self) -> bool:
        """Whether the server could serve now. Raises `ServerAway` only."""
        try:
            await self._send("GET", "/readyz", retries=NEVER)
        except ServerAway:
            raise
        except SegmentFailed:
            return False
        return True

    async def _send(
        self, method: str, path: str, *, retries: Retries | None = None, **request: Any
    ) -> httpx.Response:
        async with self._open(method, path, retries=retries, **request) as response:
            await response.aread()
        return response

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, *, retries: Retries | None = None, **request: Any
    ) -> AsyncIterator[httpx.Response]:
        """A successful response that has not been read; refusals are tried again. Raises `SegmentFailed`."""
        retries = retries or self._retries
        tried = 0
        try:
            while True:
                async with self._http.stream(method, path, **request) as response:
                    if response.is_success:
                        yield response
                        return
                    await response.aread()
                tried += 1
                wait = retries.wait(tried, response.status_code, response.headers.get("retry-after"))
                if wait is None:
                    refused = _refused(response)
                    refused.retry_after = seconds_of(response.headers.get("retry-after"))
                    raise refused
                await asyncio.sleep(wait)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise ServerAway(f"no answer from {self.url} ({reason}); is `r2sm serve` running?") from error

    def _read(self, model: type[Answer], response: httpx.Response) -> Answer:
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise self._stranger(response) from error

    def _stranger(self, response: httpx.Response) -> SegmentFailed:
        return SegmentFailed(f"{self.url} does not answer like r2sm-server", response.status_code)


def _options(options: dict[str, object]) -> SegmentOptions:
    return SegmentOptions.model_validate(options, strict=False)


def _request(image: AnyImage, prompt: str | None, options: dict[str, object]) -> dict[str, Any]:
    """A request's body for httpx: multipart with a file, else JSON. Raises `ValidationError`."""
    asked = _options(options if prompt is None else {"prompt": prompt, **options})
    if isinstance(image, ImageSource):
        named = asked.model_dump(exclude_unset=True)
        body = SegmentBody.model_validate({**named, "image": image}, strict=False)
        return {"json": body.model_dump(mode="json", exclude_unset=True)}
    return {
        "files": {"image": ("image", image, "application/octet-stream")},
        "data": {"request": asked.model_dump_json(exclude_unset=True)},
    }


def _refused(response: httpx.Response) -> SegmentFailed:
    try:
        return _failed(Problem.model_validate_json(response.content))
    except ValidationError:
        return SegmentFailed(f"the server answered {response.status_code}", response.status_code)


def _failed(problem: Problem) -> SegmentFailed:
    return SegmentFailed(f"{problem.title}: {problem.detail}", problem.status, problem)
