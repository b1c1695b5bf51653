"""Drafter: masks guessed from a request's reasoning so far, while it is still being written."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from engines.errors import EngineError
from engines.events import MaskDrafted, MaskReady

SENTENCE = re.compile(r".*[.!?。！？\n](?=\s|$)", re.DOTALL)  # noqa: RUF001  # full stops of Chinese, too

logger = logging.getLogger(__name__)

Draw = Callable[[str], Awaitable[Sequence[MaskReady]]]
Emit = Callable[[MaskDrafted], None]


class Drafter:
    """Draws up to `wanted` drafts while its ``async with`` block, the reasoning, runs; one at a time.

    The first is drawn at once, without any reasoning, each of the others from the sentences that have been finished
    meanwhile, at the end of one at which `affords_another` is true. `draw` makes the masks of a reasoning. A draft
    that is due while `idle` is false is dropped, as is one that an engine fails to make; what is not there at the
    end of the block is given up, so that nobody waits for it.
    """

    def __init__(
        self,
        wanted: int,
        draw: Draw,
        idle: Callable[[], bool],
        affords_another: Callable[[], bool],
        emit: Emit,
    ) -> None:
        self._wanted = wanted
        self._draw = draw
        self._idle = idle
        self._affords_another = affords_another
        self._emit = emit
        self._reasoning = ""
        self._tokens = 0
        self._sentence = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self.drawn: list[MaskDrafted] = []

    async def __aenter__(self) -> Self:
        if self._wanted:
            self._work = asyncio.create_task(self._draw_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])
            if not self._work.cancelled():
                self._work.result()

    def hear(self, reasoning: str, tokens: int) -> None:
        """Take note of all the reasoning so far, and of how many tokens it has taken."""
        finished = SENTENCE.match(reasoning)
        if finished is not None and finished[0] != self._reasoning:
            self._reasoning, self._tokens = finished[0], tokens
            self._sentence.set()

    async def _draw_all(self) -> None:
        for number in range(self._wanted):
            if number:
                await self._affordable_sentence()
            if self._idle():
                await self._draw_one(number, self._reasoning, self._tokens)

    async def _affordable_sentence(self) -> None:
        """Wait for the end of a sentence at which there is time for another draft."""
        while True:
            await self._sentence.wait()
            self._sentence.clear()
            if self._affords_another():
                return

    async def _draw_one(self, number: int, reasoning: str, tokens: int) -> None:
        try:
            masks = await self._draw(reasoning)
        except EngineError as error:  # the request needs the same engine: if it stays away, it says so
            logger.info("a draft was given up: %s", error)
            return
        for mask in masks:
            draft = MaskDrafted(
                number, mask.object, mask.mask_type, mask.rle, mask.bbox, mask.area, reasoning_tokens=tokens
            )
            self.drawn.append(draft)
            self._emit(draft)
