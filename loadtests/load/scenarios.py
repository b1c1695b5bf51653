"""The scenarios: who comes, how often, with which images and prompts, and who leaves early."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Transport = Literal["rest", "sse", "ws"]
ScenarioName = Literal["chat", "catalogue", "mixed", "burst", "soak"]
TRANSPORTS: tuple[Transport, ...] = ("rest", "sse", "ws")
STREAMS: tuple[Transport, ...] = ("sse", "ws")
"""They show the reasoning while it is written."""


@dataclass(frozen=True, slots=True)
class Wave:
    """Every `period` seconds the rate is `factor` times as high for `length` seconds, at the period's end."""

    period: float
    length: float
    factor: float

    def at(self, second: float) -> float:
        """What the rate is multiplied by at this second."""
        return self.factor if second % self.period >= self.period - self.length else 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Clients that arrive at random, `rate` a second, for `seconds`.

    Each brings one image, with probability `known` one that was shown before, and asks `prompts` prompts about it, one
    after another, with pauses of `think` seconds in the mean. `reasoning` weighs the lengths of reasoning; `leaving` is
    the share of requests whose client leaves while it waits.
    """

    name: ScenarioName
    meaning: str
    rate: float
    seconds: float
    prompts: int = 1
    think: float = 0.0
    known: float = 0.0
    reasoning: Mapping[str, float] = field(default_factory=lambda: {"full": 1.0})
    leaving: float = 0.0
    wave: Wave | None = None

    @property
    def requests_per_second(self) -> float:
        """The requests of all clients that come within a second, in the mean, waves left out."""
        return self.rate * self.prompts


VARIED = {"full": 0.6, "brief": 0.2, "none": 0.2}

SCENARIOS: Mapping[ScenarioName, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("chat", "one image, several prompts", 1.0, 60, prompts=4, think=2.0, leaving=0.05),
        Scenario("catalogue", "a new image each time, no reasoning", 4.0, 60, reasoning={"none": 1.0}),
        Scenario(
            "mixed",
            "known and new images, all lengths of reasoning",
            2.0,
            60,
            prompts=2,
            think=1.0,
            known=0.5,
            reasoning=VARIED,
            leaving=0.1,
        ),
        Scenario("burst", "quiet, with waves", 2.0, 80, known=0.5, reasoning=VARIED, wave=Wave(20, 4, 6)),
        Scenario(
            "soak",
            "the mixture, for long",
            2.0,
            600,
            prompts=2,
            think=1.0,
            known=0.5,
            reasoning=VARIED,
            leaving=0.1,
        ),
    )
}
