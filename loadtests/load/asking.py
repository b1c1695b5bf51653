"""One request over REST, server-sent events or a WebSocket, without an event loop, and what of it was seen when."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from loadtests.load.records import OK, Record
from loadtests.load.scenarios import Transport
from server.bearer import bearer

URN = "urn:r2sm:problem:"
CLOSE_SECONDS = 1.0
STRANGE = (ValueError, LookupError, TypeError, AttributeError)
"""What the reading of an answer fails with that is no JSON, or other JSON than this server's."""
FAULTS = (httpx.HTTPError, WebSocketException, OSError, *STRANGE)
"""What a request may fail with beside a problem document: lost connections and answers that cannot be read."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: `image` is a file, or the id of one that was uploaded; `options` go with the prompt."""

    image: bytes | str
    prompt: str
    options: Mapping[str, object] = field(default_factory=dict)

    def body(self) -> dict[str, object]:
        """The request's JSON, without a file."""
        named: dict[str, object] = {"image": {"id": self.image}} if isinstance(self.image, str) else {}
        return {"prompt": self.prompt, **self.options, **named}


@dataclass(slots=True)
class Seen:
    """The moments of one request, by `time.perf_counter`; `intended` is when it was to be sent."""

    intended: float
    sent: float | None = None
    first_word: float | None = None
    last_word: float | None = None
    first_mask: float | None = None
    end: float | None = None
    tokens: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    outcome: str = ""

    def hear(self, event: Mapping[str, Any]) -> bool:
        """Take the next event of a stream; tells whether it was the last one."""
        now = time.perf_counter()
        match event["type"]:
            case "reasoning.delta":
                self.first_word, self.last_word = self.first_word or now, now
            case "mask":
                self.first_mask = self.first_mask or now
            case "done":
                self.finish(event["timings_ms"], event["usage"])
            case "error":
                self.outcome = slug(event["problem"])
        return bool(self.outcome)

    def finish(self, stages: Mapping[str, float], usage: Mapping[str, int]) -> None:
        """The request has been answered."""
        self.end, self.outcome = time.perf_counter(), OK
        self.stages, self.tokens = dict(stages), usage["reasoning_tokens"]

    def record(self, began: float, step: int, transport: Transport, nth: int) -> Record:
        """What is kept of it, in a run that `began` then."""
        return Record(
            step=step,
            transport=transport,
            nth=nth,
            intended=round(self.intended - began, 4),
            sent_ms=self._since(self.sent) or 0.0,
            outcome=self.outcome or "broken-off",
            ttft_ms=self._since(self.first_word),
            ttfm_ms=self._since(self.first_mask),
            end_to_end_ms=self._since(self.end),
            ms_per_token=self._per_token(),
            reasoning_tokens=self.tokens,
            stages=self.stages,
        )

    def _since(self, moment: float | None) -> float | None:
        return None if moment is None else round((moment - self.intended) * 1000, 2)

    def _per_token(self) -> float | None:
        """From the first to the last piece of reasoning: the first one brings a single token."""
        if self.first_word is None or self.last_word is None or self.tokens < 2:
            return None
        return round((self.last_word - self.first_word) * 1000 / (self.tokens - 1), 3)


class Asker(Protocol):
    """A client of one transport, for one visit; a request that fails raises one of `FAULTS` or has an outcome."""

    def ask(self, asked: Asked, seen: Seen) -> None: ...

    def close(self) -> None: ...


class Rest:
    """Whole answers."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def ask(self, asked: Asked, seen: Seen) -> None:
        response = self._http.post("/v1/segment", **sent(asked))
        if not response.is_success:
            seen.outcome = refusal(response)
            return
        answer = response.json()
        seen.finish(answer["timings_ms"], answer["usage"])
        seen.first_mask = seen.end if answer["masks"] else None

    def close(self) -> None: ...


class Sse:
    """Server-sent events."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def ask(self, asked: Asked, seen: Seen) -> None:
        headers = {"Accept": "text/event-stream"}
        with self._http.stream("POST", "/v1/segment", headers=headers, **sent(asked)) as response:
            if not response.is_success:
                response.read()
                seen.outcome = refusal(response)
                return
            for line in response.iter_lines():
                if line.startswith("data: ") and seen.hear(json.loads(line.removeprefix("data: "))):
                    return

    def close(self) -> None: ...


class Socket:
    """A WebSocket, opened with the first request and kept for the visit."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.replace("http", "ws", 1).rstrip("/") + "/v1/segment/stream"
        self._headers = bearer(key)
        self._open: ClientConnection | None = None

    def ask(self, asked: Asked, seen: Seen) -> None:
        if self._open is None:
            self._open = connect(
                self._url,
                additional_headers=self._headers,
                close_timeout=CLOSE_SECONDS,
                max_size=None,
                proxy=None,
            )
        self._open.send(json.dumps({"type": "segment", "id": "load", **asked.body()}))
        if isinstance(asked.image, bytes):
            self._open.send(asked.image)
        while not seen.hear(json.loads(self._open.recv())):
            pass

    def close(self) -> None:
        if self._open is not None:
            self._open.close()


def asker(transport: Transport, http: httpx.Client, url: str, key: str | None) -> Asker:
    """A new visitor's client."""
    match transport:
        case "rest":
            return Rest(http)
        case "sse":
            return Sse(http)
        case "ws":
            return Socket(url, key)


def upload(http: httpx.Client, data: bytes) -> str:
    """The id under which an image can be asked about. Raises `httpx.HTTPError`."""
    response = http.post("/v1/images", content=data, headers={"Content-Type": "application/octet-stream"})
    response.raise_for_status()
    return str(response.json()["id"])


def sent(asked: Asked) -> dict[str, Any]:
    """The request's body for httpx."""
    if isinstance(asked.image, str):
        return {"json": asked.body()}
    return {
        "files": {"image": ("image", asked.image, "application/octet-stream")},
        "data": {"request": json.dumps(asked.body())},
    }


def refusal(response: httpx.Response) -> str:
    """The outcome that a response stands for which is no answer."""
    try:
        return slug(response.json())
    except STRANGE:
        return f"http-{response.status_code}"


def slug(problem: Mapping[str, Any]) -> str:
    """A problem document's type, without what all have in common."""
    return str(problem.get("type", "unknown")).removeprefix(URN)
