"""When a client tries again: refusals that say so, after the time they ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass

RETRIED = (429, 503)


@dataclass(frozen=True, slots=True)
class Retries:
    """`times` more tries after a refusal with ``Retry-After``; one that asks for more than `longest` is final."""

    times: int = 2
    longest: float = 30.0  # seconds

    def wait(self, tried: int, status: int, retry_after: str | None) -> float | None:
        """Seconds until the next try after `tried` of them; None: there is none."""
        if tried > self.times or status not in RETRIED:
            return None
        seconds = seconds_of(retry_after)
        return seconds if seconds is not None and seconds <= self.longest else None


def seconds_of(retry_after: str | None) -> float | None:
    """What a ``Retry-After`` asks for; None if there is none, or a date: no server of ours sends one."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


NEVER = Retries(times=0)
