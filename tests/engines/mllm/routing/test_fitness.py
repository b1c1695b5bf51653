"""Ejection and return on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engines.mllm.probe import Probe
from engines.mllm.routing.fitness import Fitness, RoutingLimits

LIMITS = RoutingLimits(failures=2, first_pause=1.0, longest_pause=10.0, stable=60.0, probe_every=5.0)
WELL, SLOW, MISSED = Probe(), Probe("no answer in time"), Probe("no such name", reached=False)


def ejected(now: float = 100.0) -> Fitness:
    fitness = Fitness(LIMITS, 0.0)
    assert not fitness.failed(now)
    assert fitness.failed(now)
    return fitness


def test_failures_in_a_row_eject() -> None:
    fitness = Fitness(LIMITS, 0.0)
    for _ in range(5):
        assert not fitness.failed(1.0)
        fitness.succeeded(1.0)
    assert fitness.fit
    assert not fitness.failed(2.0)
    assert fitness.failed(2.0)
    assert not fitness.fit
    assert not fitness.failed(2.0), "it is ejected already"


def test_a_good_probe_does_not_excuse_failing_calls() -> None:
    fitness = Fitness(LIMITS, 0.0)
    fitness.failed(1.0)
    fitness.probed(WELL, 2.0)
    assert fitness.failed(3.0)


def test_a_probe_that_fails_twice_ejects_a_server_nobody_asks() -> None:
    fitness = Fitness(LIMITS, 0.0)
    assert [fitness.probed(SLOW, 5.0), fitness.probed(SLOW, 10.0)] == [False, True]


def test_calls_that_succeed_excuse_probes_that_are_slow() -> None:
    fitness = Fitness(LIMITS, 0.0)
    for now in (5.0, 10.0, 15.0, 20.0):
        assert not fitness.probed(SLOW, now)
        fitness.succeeded(now + 1.0)
    assert fitness.fit


def test_pieces_of_streams_excuse_probes_that_are_slow_but_no_call_that_failed() -> None:
    fitness = Fitness(LIMITS, 0.0)
    for now in (5.0, 10.0, 15.0, 20.0):
        assert not fitness.probed(SLOW, now)
        fitness.told()
    assert not fitness.failed(21.0)
    fitness.told()
    assert fitness.failed(22.0), "a server that breaks its streams off tells something in each"


def test_calls_that_succeed_do_not_excuse_probes_that_cannot_connect() -> None:
    fitness = Fitness(LIMITS, 0.0)
    assert not fitness.probed(MISSED, 5.0)
    fitness.succeeded(6.0)
    assert fitness.probed(MISSED, 10.0)
    fitness.succeeded(10.5)
    assert not fitness.fit, "it is left alone until something connects anew"
    assert fitness.until_probe(10.5) == 0.5


def test_probes_that_fail_one_at_a_time_eject_nobody() -> None:
    fitness = Fitness(LIMITS, 0.0)
    for now in (10.0, 20.0, 30.0):
        fitness.probed(MISSED, now)
        fitness.succeeded(now)
        fitness.probed(WELL, now + 5.0)
    assert fitness.fit


@pytest.mark.parametrize("between", [SLOW, WELL])
def test_probes_that_cannot_connect_count_in_a_row_only(between: Probe) -> None:
    fitness = Fitness(LIMITS, 0.0)
    for now, probe in enumerate([MISSED, between, MISSED, between, MISSED]):
        assert not fitness.probed(probe, 5.0 * now)
        fitness.succeeded(5.0 * now + 1.0)
    assert fitness.fit


def test_probes_that_are_slow_count_in_a_row_only() -> None:
    fitness = Fitness(LIMITS, 0.0)
    for now, probe in enumerate([SLOW, WELL, SLOW, WELL, MISSED]):
        assert not fitness.probed(probe, 5.0 * now)
    assert fitness.probed(SLOW, 30.0)


@pytest.mark.parametrize(("probe", "fit"), [(MISSED, False), (SLOW, True), (WELL, True)])
def test_one_that_could_not_be_reached_is_back_only_after_a_probe_that_could(probe: Probe, fit: bool) -> None:
    fitness = Fitness(LIMITS, 0.0)
    fitness.probed(MISSED, 5.0)
    fitness.probed(MISSED, 10.0)
    fitness.succeeded(10.5)
    fitness.probed(probe, 11.0)
    fitness.succeeded(11.5)
    assert fitness.fit == fit


def test_pauses_double_until_the_longest() -> None:
    fitness, now, pauses = ejected(100.0), 100.0, []
    for _ in range(6):
        pauses.append(fitness.until_probe(now))
        now += pauses[-1]
        fitness.probed(SLOW, now)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    fitness.probed(WELL, now)
    assert fitness.fit
    assert fitness.until_probe(now) == 5.0


def test_a_probe_before_its_time_cannot_put_the_next_one_off() -> None:
    fitness = ejected(100.0)
    for _ in range(10):
        fitness.probed(SLOW, 100.5)
    assert fitness.until_probe(100.5) == 0.5
    fitness.probed(WELL, 100.6)
    assert fitness.fit, "but it can bring the server back"


@pytest.mark.parametrize(("back_for", "pause"), [(59.0, 2.0), (60.0, 1.0)])
def test_a_server_that_fails_again_soon_stays_away_longer(back_for: float, pause: float) -> None:
    fitness = ejected(100.0)
    fitness.probed(WELL, 101.0)
    now = 101.0 + back_for
    fitness.failed(now)
    fitness.failed(now)
    assert fitness.until_probe(now) == pause


def test_a_call_that_was_answered_brings_a_server_back() -> None:
    fitness = ejected()
    fitness.succeeded(100.1)
    assert fitness.fit, "its probes say nothing against it"


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens, the next probe is never further off than a pause may be, and a good probe brings it back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.fitness = Fitness(LIMITS, self.now)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def fail(self) -> None:
        was_fit = self.fitness.fit
        assert self.fitness.failed(self.now) == (was_fit and not self.fitness.fit)

    @rule()
    def tell(self) -> None:
        was_fit = self.fitness.fit
        self.fitness.told()
        assert self.fitness.fit == was_fit

    @rule()
    def succeed(self) -> None:
        was_fit = self.fitness.fit
        self.fitness.succeeded(self.now)
        assert self.fitness.fit or not was_fit

    @rule(probe=st.sampled_from([WELL, SLOW, MISSED]))
    def probe(self, probe: Probe) -> None:
        was_fit = self.fitness.fit
        self.fitness.probed(probe, self.now)
        assert self.fitness.fit or not probe.well or was_fit

    @invariant()
    def a_probe_is_never_far(self) -> None:
        longest = LIMITS.probe_every if self.fitness.fit else LIMITS.longest_pause
        assert 0 <= self.fitness.until_probe(self.now) <= longest + 1e-6  # of a clock with rounding


TestAnyHistory = AnyHistory.TestCase
