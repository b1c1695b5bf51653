"""What one request's hidden states are waited for in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from engines.errors import MllmUnavailable
from engines.mllm.tap.message import Message

PATIENCE_SECONDS = 5.0
"""How long after an answer its states may come; they are sent before its last token is."""


Hearer = Callable[[NDArray[np.float32], NDArray[np.float32]], None]


class Told:
    """The states that come under one tag, as long as somebody holds this; `options` asks for them in a request."""

    def __init__(self, tag: str, options: Mapping[str, object]) -> None:
        self.tag = tag
        self.options = options
        self._first: NDArray[np.float32] | None = None
        self._others: list[NDArray[np.float32]] = []
        self._came = asyncio.Event()
        self._hearer: Hearer | None = None

    def heard_by(self, hearer: Hearer) -> None:
        """Tell `hearer` of each further state as it comes, with the one that began."""
        self._hearer = hearer

    def hear(self, message: Message) -> None:
        """One more state."""
        if message.anew:
            self._first = message.state
            self._others.clear()
        else:
            self._others.append(message.state)
            if self._hearer is not None and self._first is not None:
                self._hearer(self._first, message.state)
        self._came.set()

    async def begun(self, answering: asyncio.Task[object]) -> NDArray[np.float32]:
        """The state [D] that begins anew, as soon as it comes, which is before the call that brings it is answered.

        Raises what the call does, and MllmUnavailable if it does not come.
        """
        coming = asyncio.ensure_future(self._came.wait())
        try:
            await asyncio.wait((coming, answering), return_when=asyncio.FIRST_COMPLETED)
        finally:
            coming.cancel()
        if self._first is None:
            await answering
        [state] = await self.take(first=True)
        return state

    async def take(self, *, first: bool, others: int = 0) -> list[NDArray[np.float32]]:
        """The states, each [D], of a request that has been answered: the one that begins anew, and those behind it.

        Raises MllmUnavailable if they do not come.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(self._others) < others or (first and self._first is None):
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError as fault:
            raise MllmUnavailable("the reason server did not send its hidden states") from fault
        begun = [self._first] if first and self._first is not None else []
        return [*begun, *self._others[:others]]
