"""How many replicas of each part a rate needs, so that the first mask comes in time and some room is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engines.capacity.simulation import Seconds, Work, concentrate_times, gateway_times, reason_times
from engines.capacity.stages import StageTimes
from engines.capacity.stations import MS
from engines.errors import InvalidInput

REQUESTS = 2000
IDLE = 1e-3
"""A rate, per second, at which requests do not meet."""
GROWTH = 1.05
"""Replicas are added one by one, or by this factor where they are many."""
NO_WAIT = 1e-4
"""Of the goal's seconds: whoever waits no longer for a replica gains nothing from more of them."""
PARTS = ("gateway", "reason", "concentrate")


@dataclass(frozen=True, slots=True)
class Goal:
    """`rate` requests a second; the first mask within `slo` seconds for a `quantile` of them.

    No part may be busier than `utilisation`: what is left is the head-room for bursts and lost replicas.
    """

    rate: float
    slo: float
    quantile: float = 0.95
    utilisation: float = 0.7


@dataclass(frozen=True, slots=True)
class Part:
    """One part's replicas. `limit` is the rate at which they are all busy all the time."""

    name: str
    replicas: int
    gpus: int
    limit: float
    seconds: float
    """The goal's quantile of the time that a request spends there."""

    def headroom(self, rate: float) -> float:
        """The share of the limit that a rate leaves free."""
        return 1 - rate / self.limit


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """Replicas of every part, and the time to the first mask that the simulation found with them."""

    goal: Goal
    parts: tuple[Part, ...]
    median: float
    slowest: float
    in_flight: int
    """Requests in one gateway at a time, at the goal's quantile: less than this must not be R2SM_MAX_IN_FLIGHT."""

    @property
    def gpus(self) -> int:
        """All GPUs, or slices of them."""
        return sum(part.gpus for part in self.parts)


def limits(times: StageTimes, work: Work) -> dict[str, float]:
    """The requests a second at which one replica of each part is busy all the time."""
    batch = times.max_sequences
    step = (times.step_ms + times.step_ms_per_sequence * (batch - 1)) / batch
    reason = times.first_token_ms + (work.tokens - 1) * step
    objects = work.objects - 1
    concentrate = (
        times.warm_ms + times.decide_ms + times.concentrate_ms + times.concentrate_object_ms * objects
    )
    mask = (times.decode_ms + times.decode_object_ms * (times.decode_batch - 1)) / times.decode_batch
    gateway = max(times.image_ms + times.finish_ms, times.encode_ms * (1 - work.cached), mask * work.objects)
    busy = {"gateway": gateway, "reason": reason, "concentrate": concentrate}
    return {
        name: 1 / (milliseconds * MS) if milliseconds else math.inf for name, milliseconds in busy.items()
    }


def plan(times: StageTimes, work: Work, goal: Goal, gpus: dict[str, int], seed: int = 0) -> CapacityPlan:
    """The fewest replicas that the simulation finds enough.

    Every replica gets an equal, random share of the requests: what a balancer that knows more does better than
    this is not counted on. Parts are simulated one replica each, so a plan costs the same at every rate.

    Raises:
        InvalidInput: a request alone is slower than the goal allows.
    """
    alone = _simulated(times, work, dict.fromkeys(PARTS, IDLE), seed)
    if np.quantile(_first_mask(alone), goal.quantile) > goal.slo:
        raise _too_slow(alone, goal)
    most = limits(times, work)
    replicas = {name: max(1, math.ceil(goal.rate / (goal.utilisation * most[name]))) for name in PARTS}
    spent = _simulated(times, work, {name: goal.rate / replicas[name] for name in PARTS}, seed)
    while np.quantile(total := _first_mask(spent), goal.quantile) > goal.slo:
        waits = {name: _slowest(spent[name], goal) - _slowest(alone[name], goal) for name in PARTS}
        worst = max(PARTS, key=waits.__getitem__)
        if waits[worst] < NO_WAIT * goal.slo:
            raise _too_slow(alone, goal)
        replicas[worst] = max(replicas[worst] + 1, math.floor(replicas[worst] * GROWTH))
        spent |= _simulated(times, work, {worst: goal.rate / replicas[worst]}, seed)
    parts = tuple(
        Part(
            name,
            replicas[name],
            replicas[name] * gpus.get(name, 0),
            replicas[name] * most[name],
            _slowest(spent[name], goal),
        )
        for name in PARTS
    )
    present = goal.rate / replicas["gateway"] * float(total.mean())
    in_flight = math.ceil(present + 1.645 * math.sqrt(present))  # Poisson, 95 %
    return CapacityPlan(
        goal, parts, float(np.median(total)), float(np.quantile(total, goal.quantile)), in_flight
    )


def _slowest(spent: Seconds, goal: Goal) -> float:
    """The goal's quantile of what requests spend in one part."""
    return float(np.quantile(spent.sum(axis=1), goal.quantile))


def _too_slow(alone: dict[str, Seconds], goal: Goal) -> InvalidInput:
    fastest = np.quantile(_first_mask(alone), goal.quantile)
    return InvalidInput(
        f"slo: a request that is alone takes {fastest:.3g} s to its first mask; no number of replicas brings that"
        f" below {goal.slo:g} s"
    )


def _simulated(times: StageTimes, work: Work, rates: dict[str, float], seed: int) -> dict[str, Seconds]:
    """What requests spend in one replica of each part that has a rate, each with its own chance."""
    simulate: dict[str, Callable[..., Seconds]] = {
        "gateway": gateway_times,
        "reason": reason_times,
        "concentrate": concentrate_times,
    }
    return {
        name: simulate[name](times, work, rate, REQUESTS, seed + 10 * PARTS.index(name))
        for name, rate in rates.items()
    }


def _first_mask(spent: dict[str, Seconds]) -> Seconds:
    """Seconds [N] to the first mask: encoding goes on beside the reasoning, the rest comes one after the other."""
    reading, encoding, masks = spent["gateway"].T
    result: Seconds = (
        reading + np.maximum(encoding, spent["reason"][:, 0]) + spent["concentrate"][:, 0] + masks
    )
    return result
