"""CircuitBreaker, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.cache.observer import BreakerState
from server.cache.breaker import CircuitBreaker

PAUSE = 2.0


@dataclass
class Clock:
    now: float = 100.0
    told: list[BreakerState] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def breaker(self, failures: int = 3) -> CircuitBreaker:
        return CircuitBreaker("all", failures, PAUSE, lambda _, state: self.told.append(state), self)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        assert breaker.allows()
        breaker.failed()


def test_it_opens_after_failures_in_a_row_only(clock: Clock) -> None:
    breaker = clock.breaker()
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    assert clock.told == ["closed", "open"]


def test_after_a_pause_one_attempt_closes_it_or_opens_it_again(clock: Clock) -> None:
    breaker = clock.breaker()
    fail(breaker, 3)
    clock.now += PAUSE - 0.01
    assert not breaker.allows()
    clock.now += 0.01
    assert [breaker.allows() for _ in range(5)] == [True] + [False] * 4
    breaker.failed()
    assert not breaker.allows()
    clock.now += PAUSE
    assert breaker.allows()
    breaker.succeeded()
    assert all(breaker.allows() for _ in range(5))
    assert clock.told == ["closed", "open", "half_open", "open", "half_open", "closed"]


def test_an_attempt_that_is_never_reported_holds_up_the_next_for_a_pause(clock: Clock) -> None:
    breaker = clock.breaker()
    fail(breaker, 3)
    clock.now += PAUSE
    assert breaker.allows()
    assert not breaker.allows()
    clock.now += PAUSE
    assert breaker.allows()


def test_what_was_asked_before_it_opened_does_not_close_it(clock: Clock) -> None:
    breaker = clock.breaker()
    fail(breaker, 3)
    breaker.succeeded()
    assert not breaker.allows()
    breaker.failed()
    clock.now += PAUSE
    assert breaker.allows(), "a late failure does not lengthen the pause"


@given(st.lists(st.sampled_from(["ask, well", "ask, ill", "ask, lost", "wait"]), max_size=60))
def test_a_dead_service_is_asked_at_most_so_often(steps: list[str]) -> None:
    clock = Clock()
    breaker = clock.breaker()
    row, asked_at = 0, -PAUSE
    for step in steps:
        if step == "wait":
            clock.now += 0.5
        elif breaker.allows():
            assert row < 3 or clock.now - asked_at >= PAUSE
            asked_at = clock.now
            if step == "ask, well":
                breaker.succeeded()
                row = 0
            elif step == "ask, ill":
                breaker.failed()
                row += 1
