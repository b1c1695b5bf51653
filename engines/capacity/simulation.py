"""Requests on their way through the stations: many at one replica, or a few clients at a whole system."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simpy import Environment, Event

from engines.capacity.stages import StageTimes, written_tokens
from engines.capacity.stations import ConcentrateServer, Gateway, Machine, ReasonServer

Seconds = NDArray[np.float64]  # one per request
Visit = Generator[Event, Any, tuple[float, ...]]
WARM_UP = 0.2
"""The share of the first requests that is not looked at: the queues are still filling."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one request asks for. `cached` is the share of the requests whose embedding is remembered."""

    reasoning_tokens: int
    objects: int = 1
    cached: float = 0.0

    @property
    def tokens(self) -> int:
        """How many the reason server writes."""
        return written_tokens(self.reasoning_tokens, self.objects)


def gateway_times(times: StageTimes, work: Work, rate: float, requests: int, seed: int) -> Seconds:
    """Seconds [N, 3] that requests spend in one gateway: reading, encoding, making masks."""
    chance = random.Random(seed + 1)

    def visits(machine: Machine) -> Callable[[], Visit]:
        gateway = Gateway(machine, times)

        def visit() -> Visit:
            env = machine.env
            marks = [env.now]
            yield from gateway.read()
            marks.append(env.now)
            if chance.random() >= work.cached:
                yield from gateway.encode()
            marks.append(env.now)
            yield from gateway.masks(work.objects)
            marks.append(env.now)
            return tuple(np.diff(marks))

        return visit

    return _arriving(visits, rate, requests, seed)


def reason_times(times: StageTimes, work: Work, rate: float, requests: int, seed: int) -> Seconds:
    """Seconds [N, 1] that requests spend at one reason server."""

    def visits(machine: Machine) -> Callable[[], Visit]:
        server = ReasonServer(machine, times)

        def visit() -> Visit:
            began = machine.env.now
            yield server.reason(work.tokens)
            return (machine.env.now - began,)

        return visit

    return _arriving(visits, rate, requests, seed)


def concentrate_times(times: StageTimes, work: Work, rate: float, requests: int, seed: int) -> Seconds:
    """Seconds [N, 1] that requests wait for decision and vectors at one concentrate server, which also reads ahead."""

    def visits(machine: Machine) -> Callable[[], Visit]:
        server = ConcentrateServer(machine, times)

        def visit() -> Visit:
            yield from server.warm()
            began = machine.env.now
            yield from server.concentrate(work.objects)
            return (machine.env.now - began,)

        return visit

    return _arriving(visits, rate, requests, seed)


def throughput(times: StageTimes, work: Work, clients: int, requests: int) -> float:
    """Requests a second of one gateway and one server of each role, when each client asks again at once."""
    env = Environment()
    machine = Machine(env, times.cores)
    gateway, reason = Gateway(machine, times), ReasonServer(machine, times)
    concentrate = ConcentrateServer(machine, times)
    ended: list[float] = []

    def client() -> Generator[Event, Any, None]:
        while True:
            yield from gateway.read()
            beside = env.process(gateway.encode()), env.process(concentrate.warm())
            yield reason.reason(work.tokens)
            yield env.all_of(beside)
            yield from concentrate.concentrate(work.objects)
            yield from gateway.masks(work.objects)
            ended.append(env.now)

    for _ in range(clients):
        env.process(client())
    while len(ended) < requests:
        env.step()
    skipped = int(WARM_UP * requests)
    return (len(ended) - skipped) / (ended[-1] - ended[skipped - 1])


def _arriving(
    visits: Callable[[Machine], Callable[[], Visit]], rate: float, requests: int, seed: int
) -> Seconds:
    """What visits return [N, k], of requests that arrive at random, independently, `rate` a second."""
    env = Environment()
    visit = visits(Machine(env, None))
    chance = random.Random(seed)
    told: list[tuple[float, ...]] = []

    def one() -> Generator[Event, Any, None]:
        told.append((yield from visit()))

    def arrivals() -> Generator[Event, Any, None]:
        for _ in range(requests):
            yield env.timeout(chance.expovariate(rate))
            env.process(one())

    env.run(until=env.process(arrivals()))
    while len(told) < requests:
        env.step()
    return np.asarray(told[int(WARM_UP * requests) :])
