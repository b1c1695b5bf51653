"""The hidden states behind one answer: what came while it was written, and the rest, which is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engines.errors import MllmUnavailable
from engines.events import MaskType
from engines.mllm.answer import AnswerFormat
from engines.mllm.concentrator import Concentrator
from engines.mllm.grammar import SpecialTokens
from engines.mllm.interface import Hear, Vector, Vectors
from engines.mllm.results import NOTHING_KNOWN, Decision, KnownStates, Written
from engines.mllm.tap.told import Told
from engines.mllm.wire import Prefill
from engines.mllm.written import DecisionHead

Continue = Callable[[str], Prefill]
"""The prefill of a prompt with the assistant's text so far."""


class AnswerStates:
    """Gives vectors and the decision's probability; states go by the text whose last token has them."""

    def __init__(
        self,
        answer: AnswerFormat,
        tokens: SpecialTokens,
        head: DecisionHead | None,
        concentrator: Concentrator,
    ) -> None:
        self._answer = answer
        self._tokens = tokens
        self._head = head
        self._concentrator = concentrator

    @property
    def apart(self) -> bool:
        """Whether they come from a server of their own."""
        return self._concentrator.apart

    def listen(self, hear: Hear | None = None) -> Told | None:
        """What to ask with for the states of an answer in a call, where they can be had, and are its text's.

        `hear` is told of the vectors as they come.
        """
        told = self._concentrator.listen() if self._answer.several is None else None
        if told is not None and hear is not None:
            told.heard_by(partial(self._overheard, hear))
        return told

    async def warm(self, prefill: Prefill, deadline: float) -> None:
        """Have the server read what it will be asked about."""
        await self._concentrator.warm(prefill, deadline)

    async def known(self, reasoning: str, written: Written, *, closed: bool = True) -> KnownStates:
        """The states that came with an answer; with `closed` the one that decides, too. None where none come."""
        if written.told is None:
            return NOTHING_KNOWN
        texts = [self._answer.closed(self._tokens.escape(reasoning))] if closed else []
        texts += self._with_references(reasoning, (written.mask_type,), written.objects)
        states = await written.told.take(first=closed, others=written.objects)
        return dict(zip(texts, states, strict=True))

    async def vectors(
        self,
        go_on: Continue,
        reasoning: str,
        mask_types: Sequence[MaskType],
        objects: int,
        known: KnownStates,
        deadline: float,
    ) -> dict[MaskType, Vectors]:
        """Each mask type's vectors; what is not `known` is asked, all at once."""
        texts = self._with_references(reasoning, mask_types, objects)
        states = await self._states(go_on, texts, known, deadline)
        return dict(zip(mask_types, np.split(states, len(mask_types)), strict=True))

    async def conclude(
        self,
        go_on: Continue,
        reasoning: str,
        written: Written,
        mask_types: Sequence[MaskType],
        objects: int,
        deadline: float,
    ) -> tuple[Decision, dict[MaskType, Vectors]] | None:
        """The probability of what is written, and the vectors; None where it speaks against what is written."""
        assert self._head is not None, "without its head no answer is read"
        closed = self._answer.closed(self._tokens.escape(reasoning))
        texts = [closed, *self._with_references(reasoning, mask_types, objects)]
        known = await self.known(reasoning, written)
        states = await self._states(go_on, texts, known, deadline)
        try:
            modal = self._head.p_modal(states[0])
        except ValueError as error:
            name = self._concentrator.name
            raise MllmUnavailable(f"the {name} server gave {error}: is it this bundle's?") from error
        decision = Decision(modal, 1.0 - modal, objects)
        if decision.mask_type != written.mask_type:
            return None
        return decision, dict(zip(mask_types, np.split(states[1:], len(mask_types)), strict=True))

    async def aclose(self) -> None:
        """End what is under way."""
        await self._concentrator.aclose()

    def _overheard(self, hear: Hear, first: Vector, vector: Vector) -> None:
        """Pass on a reference's state behind that from which the decision was chosen."""
        assert self._head is not None, "without its head no answer is read"
        with suppress(ValueError):  # of another model; `conclude` will say so
            hear("modal" if self._head.p_modal(first) >= 0.5 else "amodal", vector)

    def _with_references(self, reasoning: str, mask_types: Sequence[MaskType], objects: int) -> list[str]:
        escaped = self._tokens.escape(reasoning)
        return [
            self._answer.with_references(escaped, mask_type, k, objects)
            for mask_type in mask_types
            for k in range(1, objects + 1)
        ]

    async def _states(
        self, go_on: Continue, texts: Sequence[str], known: KnownStates, deadline: float
    ) -> NDArray[np.float32]:
        """The state [D] of each text's last token; what is `known` is not asked."""
        asked = [text for text in texts if text not in known]
        given = dict(known)
        if asked:
            states = await self._concentrator.states([go_on(text) for text in asked], deadline)
            given |= dict(zip(asked, states, strict=True))
        return np.stack([given[text] for text in texts])
