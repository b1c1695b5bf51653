"""CircuitBreaker: stops asking a service that fails, and tries it again after a pause."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from engines.cache.observer import BreakerState

Report = Callable[[str, BreakerState], None]

logger = logging.getLogger(__name__)


class CircuitBreaker:
    """Opens after `failures` failures in a row; every `pause` seconds after that one attempt is let through.

    While open it counts nothing: only an attempt that was let through after a pause closes it, or opens it again.
    An attempt that is never reported holds up the next one for a pause, no longer.
    """

    def __init__(
        self,
        name: str,
        failures: int,
        pause: float,
        report: Report,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._name = name
        self._most = failures
        self._pause = pause
        self._report = report
        self._clock = clock
        self._failed = 0
        self._retry_at = 0.0
        self.state: BreakerState = "closed"
        report(name, self.state)

    def allows(self) -> bool:
        """Whether an attempt may be made now. Report its outcome."""
        if self.state == "closed":
            return True
        if self._clock() < self._retry_at:
            return False
        self._retry_at = self._clock() + self._pause
        self._become("half_open")
        return True

    def succeeded(self) -> None:
        """An attempt succeeded."""
        if self.state != "open":
            self._failed = 0
            self._become("closed")

    def failed(self) -> None:
        """An attempt failed."""
        self._failed += 1
        if self.state == "half_open" or (self.state == "closed" and self._failed >= self._most):
            self._retry_at = self._clock() + self._pause
            self._become("open")

    def _become(self, state: BreakerState) -> None:
        if state != self.state:
            logger.info("circuit breaker for %s: %s", self._name, state.replace("_", " "))
            self.state = state
            self._report(self._name, state)
