"""Whether one server may be asked: ejected after failures, back after a probe that finds it well."""

from __future__ import annotations

from dataclasses import dataclass

from engines.mllm.probe import Probe


@dataclass(frozen=True, slots=True)
class RoutingLimits:
    """When servers go and come back; times in seconds.

    So many `failures` in a row eject a server, and so many probes in a row that could not connect, whatever calls do
    meanwhile.
    It is probed `first_pause` later, then after pauses that double up to `longest_pause`; a server that was back for
    less than `stable` goes on where its pauses ended. One that may be asked is probed `probe_every` so often.
    """

    failures: int = 2
    first_pause: float = 1.0
    longest_pause: float = 10.0
    stable: float = 60.0
    probe_every: float = 5.0

    def __post_init__(self) -> None:
        if self.failures < 1 or min(self.first_pause, self.longest_pause, self.probe_every) <= 0:
            raise ValueError(f"limits must be positive: {self}")


class Fitness:
    """One server's record. `now` is in seconds on any clock that never goes back.

    A probe that succeeds does not excuse failures of calls: a server may say that it is well and fail all the
    same. Nor does a call that succeeds excuse probes that cannot connect: a server that is leaving, whose name is
    gone, still answers on connections that are open. Its probes having ejected it, it is not back before one of them
    connects. A probe that is only slow, as those of a server with much to do are, shows that it can be reached, and
    is excused by calls, those that run on included: a piece of a stream excuses it, though not a call that failed.
    """

    def __init__(self, limits: RoutingLimits, now: float) -> None:
        self._limits = limits
        self._failures = 0  # of calls, since one was answered
        self._faults = 0  # of probes, since one was well or anything of a call's answer came
        self._missed = 0  # probes, since one could connect
        self._pause = 0.0
        self._back = now - limits.stable
        self._due = now + limits.probe_every
        self.fit = True

    def until_probe(self, now: float) -> float:
        """Seconds until the next probe is due, at least 0."""
        return max(self._due - now, 0.0)

    def succeeded(self, now: float) -> None:
        """A call was answered."""
        self._failures = self._faults = 0
        if not self.fit and self._missed < self._limits.failures:
            self._return(now)

    def told(self) -> None:
        """A piece of a call's answer has come."""
        self._faults = 0

    def failed(self, now: float) -> bool:
        """A call failed; whether that has ejected the server."""
        self._failures += 1
        return self._ejects(now)

    def probed(self, probe: Probe, now: float) -> bool:
        """A probe has ended; whether that has ejected the server. One that comes early cannot put off the next."""
        self._faults = 0 if probe.well else self._faults + 1
        self._missed = 0 if probe.reached else self._missed + 1
        if self.fit:
            self._due = now + self._limits.probe_every
            return self._ejects(now)
        if probe.well:
            self._failures = 0
            self._return(now)
        elif now >= self._due:
            self._wait_longer(now)
        return False

    def _ejects(self, now: float) -> bool:
        if not self.fit or max(self._failures + self._faults, self._missed) < self._limits.failures:
            return False
        self.fit = False
        if now - self._back >= self._limits.stable:
            self._pause = 0.0
        self._wait_longer(now)
        return True

    def _return(self, now: float) -> None:
        self.fit, self._back = True, now
        self._due = now + self._limits.probe_every

    def _wait_longer(self, now: float) -> None:
        self._pause = min(max(2 * self._pause, self._limits.first_pause), self._limits.longest_pause)
        self._due = now + self._pause
