"""A role that is asked about one image, and what its observer hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from engines.mllm.image import Bitmap, MllmImage
from engines.mllm.routing.role import RoutedRole
from engines.mllm.wire import Generation, Pooling, PoolingAnswer, Prefill

PREFILL = Prefill(MllmImage("sha256:a", Bitmap("data:,"), 28, 28), "the mug", "")
SECONDS = 10.0


def deadline(seconds: float = SECONDS) -> float:
    return asyncio.get_running_loop().time() + seconds


@dataclass
class Heard:
    """An observer that remembers."""

    fit: dict[str, bool] = field(default_factory=dict)
    outstanding: dict[str, int] = field(default_factory=dict)
    ejections: list[str] = field(default_factory=list)
    retries: int = 0

    def headers(self) -> Mapping[str, str]:
        return {"x-test": "yes"}

    def server(self, role: str, url: str, *, fit: bool, outstanding: int) -> None:
        self.fit[url], self.outstanding[url] = fit, outstanding

    def ejected(self, role: str, url: str) -> None:
        self.ejections.append(url)

    def retried(self, role: str) -> None:
        self.retries += 1


@dataclass
class Asking:
    """Calls and streams of a role, and its observer."""

    role: RoutedRole
    heard: Heard

    async def call(self) -> None:
        await self.role.call(Pooling((PREFILL,)), PoolingAnswer, deadline())

    async def stream(self) -> list[str]:
        return [text async for text in self.texts()]

    async def texts(self) -> AsyncGenerator[str]:
        async with aclosing(self.role.stream(Generation(PREFILL, {}), deadline())) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    yield chunk.text

    async def until(self, url: str, *, fit: bool) -> None:
        async with asyncio.timeout(SECONDS):
            while self.heard.fit[url] != fit:  # noqa: ASYNC110  # an observer is told, not asked
                await asyncio.sleep(0.01)
