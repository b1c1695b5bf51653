"""The plain script with one server: the one that reasons sends its hidden states."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.images import PreparedImage
from engines.mllm.tap.inbox import StatesInbox
from engines.mllm.tap.told import Told
from engines.mllm.wire import Generation
from loadtests.bench.script import PlainScript


class TappedScript(PlainScript):
    """`PlainScript` whose reason server is tapped; what was not written is asked, one text after another."""

    def __init__(self, *given: Any, inbox: StatesInbox, **more: Any) -> None:
        super().__init__(*given, **more)
        self._inbox = inbox
        self._told: dict[tuple[str, str], Told] = {}

    async def _warm(self, image: PreparedImage, prompt: str) -> None: ...

    def _reasoning_options(self, image: PreparedImage, prompt: str) -> dict[str, object]:
        tokens = self._answer.tokens
        decisions = [self._tokens.id(token) for token in tokens.decisions()]
        told = self._inbox.expect(before=decisions, of=[self._tokens.id(tokens.reference or "")])
        self._told[image.mllm.digest, prompt] = told
        return {**super()._reasoning_options(image, prompt), **told.options}

    async def _vectors(self, image: PreparedImage, prompt: str, texts: list[str]) -> NDArray[np.float32]:
        """Of a written answer, whose first text is its reasoning's; else of each text."""
        told = self._told.pop((image.mllm.digest, prompt), None)
        if told is not None and not texts[0].endswith(self._answer.tokens.reference or ""):
            return np.stack(await told.take(first=True, others=len(texts) - 1))
        return np.stack([await self._state(image, prompt, text) for text in texts])

    async def _state(self, image: PreparedImage, prompt: str, text: str) -> NDArray[np.float32]:
        told = self._inbox.expect()
        options = {"max_completion_tokens": 1, **told.options}
        await self._post(self._reasoner, Generation(self._prefill(image, prompt, text), options))
        [state] = await told.take(first=True)
        return state
