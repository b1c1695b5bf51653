"""Stage times from measured requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engines.capacity.stages import Measured, fit


def answer(tokens: int, step: float, objects: int = 1) -> Measured:
    """Timings of a request that read for 40 ms after 5 ms for its image, and then wrote a token every `step` ms."""
    reason = 40 + step * (tokens - 1)
    total = 5 + reason + 30
    return Measured(
        {"queue": 0.0, "image": 5.0, "ttft": 45.0, "reason": reason, "decide": 10.0, "warm": 25.0,
         "concentrate": 15.0, "decode": 4.0, "finish": 1.0, "total": total},
        tokens, objects,
    )  # fmt: skip


def test_steps_and_readings_come_apart() -> None:
    times = fit("here", [answer(n, 3.0) for n in (20, 41, 80)], [answer(41, 4.5)] * 5, clients=4)
    assert times.step_ms == pytest.approx(3.0)
    assert times.first_token_ms == pytest.approx(40.0)
    assert (times.image_ms, times.decide_ms, times.warm_ms, times.concentrate_ms) == (5.0, 10.0, 25.0, 15.0)
    company = 4 * 220 / 255 - 1  # four clients, 220 of their 255 ms in the batch
    assert times.step_ms_per_sequence == pytest.approx(1.5 / company)


def test_what_was_foreseen_is_work_though_nobody_waited_for_it() -> None:
    asked = answer(41, 3.0)
    foreseen = replace(asked, timings_ms={**asked.timings_ms, "foresee": 15.0, "concentrate": 0.5})
    assert fit("here", [foreseen], [foreseen], clients=1).concentrate_ms == 15.0


def test_company_never_makes_a_step_faster() -> None:
    assert fit("here", [answer(41, 3.0)], [answer(41, 2.0)], clients=4).step_ms_per_sequence == 0


@pytest.mark.parametrize("useless", [[], [answer(1, 3.0)], [answer(40, 3.0, objects=0)]])
def test_nothing_to_learn_from_is_said(useless: list[Measured]) -> None:
    with pytest.raises(ValueError, match="reasoned and found"):
        fit("here", useless, [answer(41, 3.0)], clients=4)
