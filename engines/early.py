"""EarlyDecoder: masks decoded from what the model has just written, while the text that says so is on its way."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self

from engines.events import MaskType
from engines.mllm.interface import Vector
from engines.vision.runtimes.base import Decoded

Begun = Mapping[bytes, asyncio.Task[Decoded]]
"""What is being decoded already, by its vector's bytes."""


class EarlyDecoder:
    """Decodes the vectors that it hears of, the first `most` of them, if they are `wanted` then; what nobody has taken
    is given up at the end of its ``async with`` block.
    """

    def __init__(
        self,
        decode: Callable[[MaskType, Vector], Awaitable[Decoded]],
        wanted: Callable[[MaskType], bool],
        *,
        most: int | None = None,
    ) -> None:
        self._decode = decode
        self._wanted = wanted
        self._most = most
        self._context = (
            contextvars.copy_context()
        )  # whoever tells of vectors is at work on other requests, too
        self._open = True
        self._begun: dict[bytes, asyncio.Task[Decoded]] = {}

    @property
    def begun(self) -> Begun:
        """What has been begun so far."""
        return self._begun

    def hear(self, mask_type: MaskType, vector: Vector) -> None:
        """Begin with a vector, if it is wanted; never raises."""
        enough = self._most is not None and len(self._begun) >= self._most
        if self._open and not enough and self._wanted(mask_type):
            work = self._run(mask_type, vector)
            self._begun[vector.tobytes()] = asyncio.get_running_loop().create_task(
                work, context=self._context
            )

    async def _run(self, mask_type: MaskType, vector: Vector) -> Decoded:
        return await self._decode(mask_type, vector)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for task in self._begun.values():
            task.cancel()
        await asyncio.gather(*self._begun.values(), return_exceptions=True)
