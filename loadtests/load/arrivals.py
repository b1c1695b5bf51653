"""When clients come: an open loop, whose arrivals do not wait for answers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from loadtests.load.scenarios import Wave


@dataclass(frozen=True, slots=True)
class Load:
    """Steps of `seconds` each, with `rates` arrivals a second; a wave, if there is one, goes over all of them."""

    rates: tuple[float, ...]
    seconds: float
    wave: Wave | None = None

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return self.seconds * len(self.rates)

    def step(self, second: float) -> int:
        """The number of the step at this second, from 0."""
        return min(int(second / self.seconds), len(self.rates) - 1)

    def rate(self, second: float) -> float:
        """Arrivals a second at this second."""
        return self.rates[self.step(second)] * (self.wave.at(second) if self.wave else 1.0)

    @property
    def highest(self) -> float:
        """The highest rate there is."""
        return max(self.rates) * (max(1.0, self.wave.factor) if self.wave else 1.0)

    def share(self, parts: int) -> Load:
        """What each of so many independent sources has to bring."""
        return Load(tuple(rate / parts for rate in self.rates), self.seconds, self.wave)


def chance_of(seed: int, process: int) -> random.Random:
    """The chance of one of the processes that bring a load: the same again for the same seed, anything for 0.

    No two processes have the same one: they would bring the same clients at the same moments.
    """
    return random.Random(f"{seed} {process}") if seed else random.Random()


def arrivals(load: Load, chance: random.Random) -> Iterator[float]:
    """The seconds at which clients come: a Poisson process, thinned to a rate that changes (Lewis and Shedler, 1979).

    Such processes add up to one, so several sources bring the load together.
    """
    second = chance.expovariate(load.highest)
    while second < load.total:
        if chance.random() * load.highest < load.rate(second):
            yield second
        second += chance.expovariate(load.highest)
