"""The tap: sends the last hidden states that requests ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from engines.mllm.tap.line import Line
from engines.mllm.tap.message import BEFORE, OF, TAG, TAG_LENGTH, Message
from engines.mllm.worker.rows import Row


@dataclass(slots=True)
class Wish:
    """What a request wants to know: as `asking` says. `last` is the state from which its last token was chosen.

    `place` is that state's token's: what is computed again after a preemption has been told already. An answer has
    one decision: where another one is written behind it, nothing begins anew.
    """

    tag: str
    before: frozenset[int]
    of: frozenset[int]
    place: int = -1
    last: torch.Tensor | None = None
    begun: bool = False

    @classmethod
    def read(cls, extra: dict[str, Any] | None) -> Wish | None:
        """The wish in a request's ``extra_args``, if there is one; what is not as `asking` says it is none.

        Whoever reaches vLLM may send anything, and what is raised here would end its engine.
        """
        asked = extra or {}
        tag, before, of = asked.get(TAG), asked.get(BEFORE), asked.get(OF)
        if not isinstance(tag, str) or len(tag) != TAG_LENGTH or not tag.isascii():
            return None
        if not isinstance(before, list) or not isinstance(of, list):
            return None
        return cls(tag, frozenset(before), frozenset(of))


class Tap:
    """Knows the wishes of the requests that run, and the line to who made them."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._wishes: dict[str, Wish] = {}

    def begin(self, new: Any) -> None:
        """A request of vLLM's that begins."""
        if wish := Wish.read(new.sampling_params and new.sampling_params.extra_args):
            self._wishes[new.req_id] = wish

    def end(self, request: str) -> None:
        """One that has ended."""
        self._wishes.pop(request, None)

    def tell(self, rows: Iterable[Row]) -> None:
        """Send what is wished for of a step's states."""
        for row in rows if self._wishes else ():
            wish = self._wishes.get(row.request)
            if wish is None or row.place <= wish.place:
                continue
            if row.place == row.prompt - 1:
                if not (wish.before or wish.of):
                    self._send(wish, row.state, anew=True)
            else:
                self._hear(wish, row)
            wish.last, wish.place = row.state, row.place

    def _hear(self, wish: Wish, row: Row) -> None:
        """A token that was written, and its state."""
        if row.token in wish.before and wish.last is not None and not wish.begun:
            wish.begun = True
            self._send(wish, wish.last, anew=True)
        if row.token in wish.of:
            self._send(wish, row.state, anew=False)

    def _send(self, wish: Wish, state: torch.Tensor, *, anew: bool) -> None:
        self._line.send(Message(wish.tag, anew, state.float().numpy()).frame())
