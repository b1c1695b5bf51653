"""DraftBudget: what the drafts of one request may cost, by what the requests before it have taken."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engines.mllm.answer import ReasoningLength

SMOOTHING = 0.2  # weight of the newest request in the means

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """Masks are drafted while no more than `up_to` requests are under way.

    `share` is how much of a request's time to its final mask the engines may work on drafts. It bounds the delay:
    at worst, where engines take turns on one processor, drafts delay the mask by as long as they are worked on.
    """

    up_to: int = 1
    share: float = 0.1


class Experience:
    """What requests have taken, in seconds: exponentially weighted means.

    `making` is from a reasoning to its masks: prefill, decode and finishing. A draft after the first costs the same,
    for the calls are the same. It is infinite until a request has shown it.
    """

    def __init__(self) -> None:
        self.making = math.inf
        self._reasoning: dict[ReasoningLength, float] = {}

    def note(self, length: ReasoningLength | None, reasoning: float, making: float) -> None:
        """A request has got its masks; `length` is None where the request gave its reasoning a length of its own."""
        self.making = _mean(self.making if math.isfinite(self.making) else making, making)
        if length is not None:
            self._reasoning[length] = _mean(self._reasoning.get(length, reasoning), reasoning)

    def reasoning(self, length: ReasoningLength | None) -> float | None:
        """How long a reasoning of this length goes on; None if nobody knows."""
        return None if length is None else self._reasoning.get(length)


class DraftBudget:
    """One request's, from the moment at which its reasoning begins."""

    def __init__(
        self,
        share: float,
        experience: Experience,
        length: ReasoningLength | None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._share = share
        self._experience = experience
        self._length = length
        self._clock = clock
        self._began = clock()
        self._spent = 0.0

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Engines work on a draft within the block, and on nothing that the mask needs anyway."""
        began = self._clock()
        try:
            yield
        finally:
            self._spent += self._clock() - began

    def affords_another(self) -> bool:
        """Whether one more draft stays within the share, and would be there before the reasoning ends.

        The share is of the time that the mask is expected to take, and of the time gone by where nothing is
        known of the reasoning's length.
        """
        elapsed = self._clock() - self._began
        cost = self._experience.making
        end = self._experience.reasoning(self._length)
        if end is None:
            return self._spent + cost <= self._share * elapsed
        return elapsed + cost <= end and self._spent + cost <= self._share * (end + cost)


def _mean(old: float, new: float) -> float:
    return old + SMOOTHING * (new - old)
