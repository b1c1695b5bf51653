"""An OpenAI-compatible chat endpoint: OpenAI's own, a local vLLM's or any other's."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from engines.errors import EngineError
from engines.near import is_near

SECONDS = 300.0
PAUSES = (1.0, 4.0, 16.0)
BUSY = frozenset({429, 500, 502, 503, 504})
SIGNS = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"RI": "webp", b"GI": "gif", b"BM": "bmp"}


class ChatFailed(EngineError):
    """The endpoint gave no text; the message says why."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    text: str


class ChatEndpoint:
    """Talks to ``{url}/chat/completions``; `url` ends in ``/v1`` as a rule.

    While it is busy or away it is asked again, after each of the `pauses` in seconds. No proxy stands before one on
    this machine. Raises `ChatFailed` for what is no URL, and for a proxy that cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._model, self._url = model, url.rstrip("/")
        self._pauses = pauses
        try:
            self._http = httpx.AsyncClient(
                headers=headers, timeout=SECONDS, transport=transport, trust_env=not is_near(url)
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:  # a proxy of the environment, or the URL
            raise ChatFailed(f"no way to {self._url}: {error}") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def say(self, image: bytes, turns: list[Turn]) -> str:
        """The model's next words in a conversation about a picture, which comes with the first turn.

        Raises:
            ChatFailed: the endpoint is away, refuses, or answers without text.
        """
        kind = SIGNS.get(image[:2], "jpeg")
        data = f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
        messages: list[dict[str, Any]] = [{"role": turn.role, "content": turn.text} for turn in turns]
        picture = {"type": "image_url", "image_url": {"url": data}}
        messages[0]["content"] = [picture, {"type": "text", "text": turns[0].text}]
        try:
            response = await self._post({"model": self._model, "messages": messages})
            response.raise_for_status()
            text = response.json()["choices"][0]["message"]["content"]
        except httpx.HTTPError as error:
            raise ChatFailed(f"{self._url}: {str(error) or type(error).__name__}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise ChatFailed(f"{self._url} does not answer like a chat endpoint") from error
        if not isinstance(text, str):
            raise ChatFailed(f"{self._url} answered without text")
        return text

    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        """The answer to a request, which is made again with growing pauses while the endpoint is busy or away."""
        for pause in self._pauses:
            with suppress(httpx.TransportError):
                response = await self._http.post(f"{self._url}/chat/completions", json=body)
                if response.status_code not in BUSY:
                    return response
            await asyncio.sleep(pause * random.uniform(0.5, 1))
        return await self._http.post(f"{self._url}/chat/completions", json=body)
