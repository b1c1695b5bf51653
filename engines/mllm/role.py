"""One vLLM server behind a URL: calls, streams, deadlines, and faults translated once, here at the edge."""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from functools import cache
from typing import Literal, TypeVar

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from engines.errors import DeadlineExceeded, InvalidInput, MllmUnavailable
from engines.mllm.image import MllmImage
from engines.mllm.probe import Probe
from engines.mllm.wire import Call, Carried, ChatChunk, ErrorBody, Generation, Pooling, Refusal, lines_of

Answer = TypeVar("Answer", bound=BaseModel)

ImageData = Literal["each", "first", "none"]
"""With which prefills of a call the image's data goes; with the others it is only named."""
CONNECT_SECONDS = 3.0
KEEP_ALIVE_SECONDS = 4.0
"""Below the five seconds after which vLLM's server closes an idle connection."""
HEALTH_SECONDS = 2.0
END_SECONDS = 0.1
"""How long vLLM may take from an answer's last event to the end of its body."""
KNOWN_IMAGES = 4096
DROPPED = frozenset({400, 500, 503})
"""How vLLM answers about an image that it no longer has: its front end with 400, its engine as a failure of its own."""
MISLAID = frozenset({500, 503})
"""How its engine fails that never got an image its front end remembers: an earlier request was broken off between."""
RETRYABLE = frozenset({503})
"""How it says that the same request might do."""
DATA = b"data: "
LAST_LINE = DATA + b"[DONE]"
JSON = {"content-type": "application/json"}
FAULTS = (httpx.HTTPError, aiohttp.ClientError)
"""What a call can raise: of aiohttp's, the transport leaves as they are those that mean no HTTP was spoken."""
UNREACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""What aiohttp raises without a connection. httpx's ConnectTimeout stands for more: that one was broken off, too."""
LENGTHS = frozenset({"input_tokens", "input_text", "max_tokens", "max_completion_tokens"})
"""What vLLM names when a request does not fit into the model's context."""


class RequestRefused(MllmUnavailable):
    """The server is well but refuses this very request; another one would, too."""


class _FailedInside(MllmUnavailable):
    """The server failed in an answer that it had begun; perhaps for want of the image, as with `DROPPED`."""


class VllmRole:
    """One vLLM server with one role, ``reason`` or ``concentrate``.

    Every call raises MllmUnavailable when the server cannot be reached, fails or refuses, DeadlineExceeded at
    `deadline` (the event loop's clock, seconds), and InvalidInput when the text is too long for the model.
    An image the server has seen is sent by name only, and one it has not with the first prefill of a call only, as
    vLLM takes them in their order; calls that come meanwhile wait until that one is being answered. Should the server
    have dropped it, or fail as if it had, the call is repeated with the data in each prefill once, while nothing has
    been yielded. `headers` gives what goes along with a call that is about to be made. Calls go over connections that
    are kept open, on which a server may still answer whose name is gone; `probe` always connects anew.
    """

    def __init__(self, name: str, url: str, headers: Callable[[], Mapping[str, str]] = dict) -> None:
        self.name = name
        self.url = url
        self._headers = headers
        self._known = _RecentNames(KNOWN_IMAGES)
        self._tried = _RecentNames(KNOWN_IMAGES)
        self._on_the_way: dict[str, asyncio.Event] = {}
        self._client = _http(url, _kept_connections)
        self._anew = _http(url, _new_connections)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
        await self._anew.aclose()

    async def call(self, request: Call, answer: type[Answer], deadline: float) -> Answer:
        """Send a request and read its whole answer."""
        async with self._edge(deadline):
            response = await self._send(request, stream=False)
            return answer.model_validate_json(response.content)

    async def stream(self, request: Generation, deadline: float) -> AsyncGenerator[ChatChunk]:
        """Send a request and yield its events; closing the generator makes the server abort the request."""
        begun = False
        try:
            async with aclosing(self._events(request, deadline)) as chunks:
                async for chunk in chunks:
                    begun = True
                    yield chunk
            return
        except _FailedInside:
            if begun:
                raise
            self._known.discard(request.image.digest)
        async with aclosing(self._events(request, deadline)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _events(self, request: Generation, deadline: float) -> AsyncGenerator[ChatChunk]:
        async with self._edge(deadline):
            response = await self._send(request, stream=True)
        finished = False
        try:
            lines = lines_of(response)
            while True:
                async with self._edge(deadline):
                    line = await anext(lines, LAST_LINE)
                    chunk = self._chunk(line)
                if line == LAST_LINE:
                    break
                if chunk is not None:
                    finished = finished or chunk.finished
                    yield chunk
            if not finished:
                raise MllmUnavailable(f"the {self.name} server ended its answer in the middle")
            await _read_to_the_end(lines)
        finally:
            await response.aclose()

    async def probe(self) -> Probe:
        """Look up the server's name, connect and ask whether it is well; never raises."""
        try:
            response = await self._anew.get("/health", timeout=HEALTH_SECONDS)
        except FAULTS as fault:
            return Probe(f"{self.url}: {_words(fault)}", reached=not isinstance(fault.__cause__, UNREACHED))
        return Probe() if response.is_success else Probe(f"{self.url} answers {response.status_code}")

    async def _send(self, request: Call, *, stream: bool) -> httpx.Response:
        if not request.image.content.kept:
            return await self._sent(request, stream=stream)
        async with self._brought_once(request.image.digest):
            return await self._sent(request, stream=stream)

    @asynccontextmanager
    async def _brought_once(self, image: str) -> AsyncIterator[None]:
        """Let nobody else bring an image while one call does.

        vLLM would take the second one as known, and might come to it first.
        """
        while image not in self._known and (under_way := self._on_the_way.get(image)):
            await under_way.wait()
        if image in self._known:
            yield
            return
        arrived = self._on_the_way[image] = asyncio.Event()
        try:
            yield
        finally:
            del self._on_the_way[image]
            arrived.set()

    async def _sent(self, request: Call, *, stream: bool) -> httpx.Response:
        data, image = self._data(request), request.image.digest
        perhaps = DROPPED if data != "each" else MISLAID if image in self._tried else RETRYABLE
        self._tried.add(image)
        response = await self._post(request, data, stream=stream)
        if response.status_code in perhaps:
            self._known.discard(image)
            await response.aclose()
            response = await self._post(request, "each", stream=stream)
        if not response.is_success:
            raise self._refused(response.status_code, await response.aread())
        self._known.add(image)
        return response

    def _data(self, request: Call) -> ImageData:
        if not request.image.content.kept:
            return "each"
        if request.image.digest in self._known:
            return "none"
        return "first" if isinstance(request, Pooling) and len(request.prefills) > 1 else "each"

    async def _post(self, request: Call, data: ImageData, *, stream: bool) -> httpx.Response:
        body = to_json(request.body(await _carried(request.image, data)))
        headers = {**JSON, **self._headers()}
        post = self._client.build_request("POST", request.path, content=body, headers=headers)
        return await self._client.send(post, stream=stream)

    def _chunk(self, line: bytes) -> ChatChunk | None:
        if line == LAST_LINE or not line.startswith(DATA):
            return None
        chunk = ChatChunk.model_validate_json(line.removeprefix(DATA))
        if chunk.error is not None:
            raise _FailedInside(f"the {self.name} server failed: {chunk.error.message}")
        return chunk

    def _refused(self, status: int, content: bytes) -> MllmUnavailable | InvalidInput:
        try:
            error = Refusal.model_validate_json(content).error
        except ValidationError:
            error = ErrorBody(message=content[:200].decode("utf-8", "replace"))
        if status == httpx.codes.BAD_REQUEST and error.param in LENGTHS:
            return InvalidInput(
                "prompt: too long for the model together with the image and the reasoning; "
                "a smaller max_reasoning_tokens leaves more room"
            )
        refusal = RequestRefused if status == httpx.codes.BAD_REQUEST else MllmUnavailable
        return refusal(f"the {self.name} server refused ({status}): {error.message}")

    @asynccontextmanager
    async def _edge(self, deadline: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError as fault:
            raise DeadlineExceeded(f"the {self.name} server did not answer in time") from fault
        except FAULTS as fault:
            raise MllmUnavailable(f"the {self.name} server at {self.url}: {_words(fault)}") from fault
        except ValidationError as fault:
            raise MllmUnavailable(f"the {self.name} server at {self.url} does not talk like vLLM") from fault


async def _read_to_the_end(lines: AsyncIterator[bytes]) -> None:
    """Take what ends an answer, or its connection could not be used again; nobody waits long for that."""
    with suppress(TimeoutError, *FAULTS):
        async with asyncio.timeout(END_SECONDS):
            async for _ in lines:
                pass


async def _carried(image: MllmImage, data: ImageData) -> Carried:
    if data == "none":
        return Carried()
    payload = await image.content.payload()
    return Carried(payload) if data == "first" else Carried.with_each(payload)


def _http(url: str, connections: Callable[[], aiohttp.ClientSession]) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url,
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        transport=AiohttpTransport(verify=_trusted(), client=connections),
        trust_env=False,
    )


def _kept_connections() -> aiohttp.ClientSession:
    """As many connections as there are calls: what bounds these stands before. Reading and writing them takes aiohttp
    a third of the CPU time that httpx's own pool takes."""
    return _session(aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ssl=_trusted()))


def _new_connections() -> aiohttp.ClientSession:
    """A connection for each request, to where the name leads now. aiohttp's cache of names stays on, holding none: with
    it, requests that come together share a look-up, and those that hang take one thread."""
    return _session(aiohttp.TCPConnector(limit=0, force_close=True, ttl_dns_cache=0, ssl=_trusted()))


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


@cache
def _trusted() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


class _RecentNames:
    """A bounded set of names; the one unused for longest leaves first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._names: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        self._names[name] = None
        self._names.move_to_end(name)
        if len(self._names) > self._size:
            self._names.popitem(last=False)

    def discard(self, name: str) -> None:
        self._names.pop(name, None)


def _words(fault: Exception) -> str:
    return " ".join(str(fault).split()) or type(fault).__name__
