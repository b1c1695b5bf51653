"""Plans: enough replicas, no more than needed, and goals that cannot be met."""

from __future__ import annotations

import pytest

from engines.capacity.plan import CapacityPlan, Goal, limits, plan
from engines.capacity.simulation import Work
from engines.errors import InvalidInput
from tests.engines.capacity.times import TIMES

WORK = Work(reasoning_tokens=80)
GPUS = {"reason": 2, "concentrate": 1}


def planned(rate: float, slo: float = 3.0, utilisation: float = 0.7) -> CapacityPlan:
    return plan(TIMES, WORK, Goal(rate, slo, utilisation=utilisation), GPUS)


@pytest.mark.parametrize("rate", [10.0, 1_000.0, 100_000.0])
def test_every_part_keeps_its_room_and_the_mask_comes_in_time(rate: float) -> None:
    found = planned(rate)
    assert all(part.headroom(rate) >= 0.3 - 1e-9 for part in found.parts)
    assert found.median < found.slowest <= found.goal.slo
    assert found.gpus == sum(GPUS.get(part.name, 0) * part.replicas for part in found.parts)


def test_ten_times_the_rate_takes_about_ten_times_the_replicas() -> None:
    few, many = planned(300), planned(3_000)
    for one, ten in zip(few.parts, many.parts, strict=True):
        assert ten.replicas == pytest.approx(10 * one.replicas, rel=0.1)


def test_a_tighter_goal_takes_more() -> None:
    loose, tight = planned(20, slo=5.0), planned(20, slo=0.7)
    assert sum(part.replicas for part in tight.parts) > sum(part.replicas for part in loose.parts)
    assert tight.slowest <= 0.7


def test_a_goal_that_a_request_alone_misses_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"alone takes 0\.488.* no number of replicas"):
        planned(10, slo=0.4)


def test_limits_follow_the_work() -> None:
    assert limits(TIMES, Work(160))["reason"] < limits(TIMES, Work(80))["reason"]
    assert limits(TIMES, Work(80, objects=8))["concentrate"] < limits(TIMES, Work(80))["concentrate"]
    assert limits(TIMES, Work(80, cached=0.5))["gateway"] == pytest.approx(
        2 * limits(TIMES, Work(80))["gateway"]
    )


def test_replicas_go_where_requests_wait() -> None:
    alone = planned(0.01).slowest
    tight = planned(20, slo=alone * 1.2)
    parts = {part.name: part for part in tight.parts}
    assert parts["concentrate"].headroom(20) > 0.5, "what hardly waits for the largest part waits elsewhere"
    assert tight.slowest <= alone * 1.2
    assert sum(part.replicas for part in tight.parts) < 60
