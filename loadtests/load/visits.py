"""A visit: one client with one image, which asks its prompts one after another and may leave."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import httpx

from loadtests.load.arrivals import Load
from loadtests.load.asking import FAULTS, Asked, Asker, Seen, asker, refusal, upload
from loadtests.load.questions import Picture, as_new
from loadtests.load.records import LEFT, Record
from loadtests.load.scenarios import Scenario, Transport

LEAVES_WITHIN = 1.0
"""Seconds; a client that leaves does so at a random moment before that."""
LATE = "no-answer"

Within = Callable[[float], AbstractContextManager[object]]
"""A context that raises `TimeIsUp` in its block after so many seconds."""


class TimeIsUp(BaseException):
    """A request has taken as long as its client waits. No `Exception`, so that no library keeps it to itself."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What a client is going to do; `leaves` has the seconds after which it leaves, for each prompt that it does not
    wait for."""

    transport: Transport
    image: bytes
    prompts: tuple[str, ...]
    reasoning: str
    pauses: tuple[float, ...]
    leaves: tuple[float | None, ...]


class Visits:
    """Draws the visits of a scenario; an image that is new is one that no server has seen before."""

    def __init__(
        self,
        scenario: Scenario,
        pictures: Sequence[Picture],
        transports: Sequence[Transport],
        chance: random.Random,
    ) -> None:
        self._scenario = scenario
        self._pictures = itertools.cycle(pictures)
        self._known = pictures[: max(1, len(pictures) // 4)]
        self._transports = itertools.cycle(transports)
        self._chance = chance

    def draw(self) -> Visit:
        """The next client."""
        scenario, chance = self._scenario, self._chance
        known = chance.random() < scenario.known
        picture = chance.choice(self._known) if known else next(self._pictures)
        first = chance.randrange(len(picture.prompts))
        return Visit(
            transport=next(self._transports),
            image=picture.data if known else as_new(picture.data, f"{chance.getrandbits(64):x}"),
            prompts=tuple(picture.prompt(first + number) for number in range(scenario.prompts)),
            reasoning=chance.choices(list(scenario.reasoning), list(scenario.reasoning.values()))[0],
            pauses=tuple(
                chance.expovariate(1 / scenario.think) if scenario.think else 0.0
                for _ in range(scenario.prompts)
            ),
            leaves=tuple(
                chance.uniform(0.0, LEAVES_WITHIN) if chance.random() < scenario.leaving else None
                for _ in range(scenario.prompts)
            ),
        )


class Visitor:
    """Makes visits to one server. `within` bounds a block in time, in whatever way the caller's threads allow."""

    def __init__(
        self, http: httpx.Client, url: str, key: str | None, patience: float, within: Within
    ) -> None:
        self._http = http
        self._url = url
        self._key = key
        self._patience = patience
        self._within = within

    def make(
        self, visit: Visit, arrived: float, began: float, load: Load, pause: Callable[[float], None]
    ) -> Iterator[Record]:
        """The records of a visit's requests, as they end; the times are by `time.perf_counter`.

        A request belongs to the step of the load in which it was to be sent, or to the last one.
        """
        client = asker(visit.transport, self._http, self._url, self._key)
        intended, image = arrived, visit.image if len(visit.prompts) == 1 else None
        name: bytes | str = image or b""
        try:
            for number, prompt in enumerate(visit.prompts):
                seen = Seen(intended)
                with self._told(seen, visit.leaves[number]):
                    seen.sent = time.perf_counter()
                    if not name:
                        name = upload(self._http, visit.image)
                    client.ask(Asked(name, prompt, {"reasoning": visit.reasoning}), seen)
                yield seen.record(began, load.step(intended - began), visit.transport, number)
                if not seen.end or number + 1 == len(visit.prompts):
                    return
                intended = time.perf_counter() + visit.pauses[number]
                pause(visit.pauses[number])
        finally:
            _close(client)

    @contextmanager
    def _told(self, seen: Seen, leaves: float | None) -> Iterator[None]:
        """What becomes of a request, as its outcome."""
        try:
            with self._within(self._patience if leaves is None else leaves):
                yield
        except TimeIsUp:
            seen.outcome = LATE if leaves is None else LEFT
        except httpx.HTTPStatusError as error:
            seen.outcome = refusal(error.response)
        except FAULTS as error:
            seen.outcome = type(error).__name__


def _close(client: Asker) -> None:
    """Whether the server takes leave properly is not measured."""
    try:
        client.close()
    except FAULTS:
        return
