"""Where last hidden states come from: a second vLLM server that pools, or the one that reasons, tapped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.errors import MllmUnavailable, first_fault
from engines.mllm.answer import AnswerFormat
from engines.mllm.grammar import SpecialTokens
from engines.mllm.routing.role import RoutedRole
from engines.mllm.tap.inbox import StatesInbox
from engines.mllm.tap.told import Told
from engines.mllm.wire import Completion, Generation, Pooling, PoolingAnswer, Prefill

States = NDArray[np.float32]  # [N, D]


class Concentrator(Protocol):
    """Gives last tokens' states. Every call raises as `VllmRole` does; `deadline` is by the event loop's clock."""

    name: str
    """The role of the server that is asked."""
    apart: bool
    """Whether it is a server of its own, which has nothing to do while the other one is asked."""

    def listen(self) -> Told | None:
        """What to ask with for the states of an answer while it is written, where they can be had then.

        They are that from which the decision is chosen, if the answer has one, and each reference's.
        """

    async def warm(self, prefill: Prefill, deadline: float) -> None:
        """Read what `states` will be asked about, meanwhile."""

    async def states(self, prefills: Sequence[Prefill], deadline: float) -> States:
        """The state of each prefill's last token; all of them of one image, and at least one."""

    async def aclose(self) -> None:
        """End what is under way."""


class SecondServer:
    """A pooling server on the same weights; its prefix cache makes each further call cheap."""

    name = "concentrate"
    apart = True

    def __init__(self, role: RoutedRole) -> None:
        self._role = role

    def listen(self) -> Told | None:
        """It does not hear what the other server writes."""
        return None

    async def warm(self, prefill: Prefill, deadline: float) -> None:
        """Prefill the prefix while the other server is reasoning."""
        await self._role.call(Pooling((prefill,)), PoolingAnswer, deadline)

    async def states(self, prefills: Sequence[Prefill], deadline: float) -> States:
        """All in one call."""
        answer = await self._role.call(Pooling(tuple(prefills)), PoolingAnswer, deadline)
        if len(answer.data) != len(prefills):
            raise MllmUnavailable(f"the concentrate server gave {len(answer.data)} of the vectors asked for")
        return answer.vectors()

    async def aclose(self) -> None:
        """Nothing outlasts its caller."""


class TappedServer:
    """The server that reasons, which sends its states to an inbox as it goes."""

    name = "reason"
    apart = False

    def __init__(
        self, role: RoutedRole, inbox: StatesInbox, answer: AnswerFormat, tokens: SpecialTokens
    ) -> None:
        self._role = role
        self._inbox = inbox
        decisions = (answer.tokens.modal, answer.tokens.amodal)
        self._decisions = [tokens.id(token) for token in decisions if token is not None]
        self._reference = tokens.id(answer.tokens.reference or "")
        self._ending: set[asyncio.Task[Completion]] = set()
        """Calls whose state has been taken, and whose answer is still to come."""

    def listen(self) -> Told | None:
        """Of whatever the model writes in the call."""
        return self._inbox.expect(before=self._decisions, of=[self._reference])

    async def warm(self, prefill: Prefill, deadline: float) -> None:
        """It has read, or is reading, it already."""

    async def states(self, prefills: Sequence[Prefill], deadline: float) -> States:
        """One call each, side by side."""
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._state(prefill, deadline)) for prefill in prefills]
        except BaseExceptionGroup as faults:
            raise first_fault(faults) from faults
        return np.stack([one.result() for one in asked])

    async def aclose(self) -> None:
        """Break off the calls whose answers nobody waits for."""
        for answering in self._ending:
            answering.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _state(self, prefill: Prefill, deadline: float) -> NDArray[np.float32]:  # [D]
        told = self._inbox.expect()
        request = Generation(prefill, {"max_completion_tokens": 1, **told.options})
        answering = asyncio.create_task(self._role.call(request, Completion, deadline))
        try:
            state = await told.begun(answering)
        except BaseException:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            raise
        self._ending.add(answering)
        answering.add_done_callback(self._ended)
        return state

    def _ended(self, answering: asyncio.Task[Completion]) -> None:
        """What it came to matters no longer; what it means for its server the role has noted."""
        self._ending.discard(answering)
        if not answering.cancelled():
            answering.exception()
