"""A client of the server, for the command line, the evaluation and the tests."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx
from pydantic import ValidationError

from server.schemas import Problem, SegmentOptions, SegmentResponse

CONNECT_SECONDS = 5.0
READ_SECONDS = 660.0  # longer than any deadline the server accepts


class SegmentFailed(Exception):
    """The server did not answer with masks. `status` is 0 when it did not answer at all.

    `problem` is its problem document, if it sent one.
    """

    def __init__(self, message: str, status: int = 0, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


class ServerAway(SegmentFailed):
    """Nothing answers at the URL."""


class SegmentClient:
    """Talks to one server. Every method raises `SegmentFailed`, or `ServerAway` if nobody answers."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = url
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=None)
        try:
            self._http = httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, transport=transport)
        except httpx.InvalidURL as error:
            raise ServerAway(f"{url} is not a URL: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def segment(self, image: bytes, prompt: str, **options: object) -> SegmentResponse:
        """Segment what `prompt` means in the image file `image`; `options` are those of `SegmentOptions`.

        Raises:
            ValidationError: an option is unknown or has no such value.
        """
        asked = SegmentOptions.model_validate({"prompt": prompt, **options}, strict=False)
        response = await self._send(
            "POST",
            "/v1/segment",
            files={"image": ("image", image, "application/octet-stream")},
            data={"request": asked.model_dump_json(exclude_unset=True)},
        )
        try:
            return SegmentResponse.model_validate_json(response.content)
        except ValidationError as error:
            raise SegmentFailed(
                f"{self.url} does not answer like r2sm-server", response.status_code
            ) from error

    async def ready(self) -> bool:
        """Whether the server could serve now. Raises `ServerAway` only."""
        try:
            await self._send("GET", "/readyz")
        except ServerAway:
            raise
        except SegmentFailed:
            return False
        return True

    async def _send(
        self,
        method: str,
        path: str,
        *,
        files: dict[str, tuple[str, bytes, str]] | None = None,
        data: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            response = await self._http.request(method, path, files=files, data=data)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise ServerAway(f"no answer from {self.url} ({reason}); is `r2sm serve` running?") from error
        if not response.is_success:
            raise _refused(response)
        return response


def _refused(response: httpx.Response) -> SegmentFailed:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return SegmentFailed(f"the server answered {response.status_code}", response.status_code)
    return SegmentFailed(f"{problem.title}: {problem.detail}", response.status_code, problem)
