"""Stage times from measured requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engines.capacity.stages import Measured, fit


def answer(tokens: int, step: float, objects: int = 1, **others: float) -> Measured:
    """Timings of a request that read for 40 ms after 5 ms for its image, and then wrote a token every `step` ms."""
    reason = 40 + step * (tokens + objects + 2 - 1)
    total = 5 + reason + 30
    return Measured(
        {"queue": 0.0, "image": 5.0, "encode": 20.0, "ttft": 45.0, "reason": reason, "decide": 10.0, "warm": 25.0,
         "concentrate": 15.0, "decode": 4.0, "finish": 1.0, "total": total} | others,
        tokens, objects,
    )  # fmt: skip


def test_steps_and_readings_come_apart() -> None:
    told = [answer(n, 3.0) for n in (20, 41, 80)]
    times = fit("here", told, told, [[answer(41, 3.6)] * 4] * 3)
    assert times.decide_ms == 10.0, "what is waited for beside the vectors"
    assert times.step_ms == pytest.approx(3.0)
    assert times.first_token_ms == pytest.approx(40.0)
    assert (times.image_ms, times.encode_ms) == (5.0, 20.0)
    assert (times.warm_ms, times.concentrate_ms, times.decode_ms, times.finish_ms) == (25.0, 15.0, 4.0, 1.0)
    assert times.step_ms_per_sequence == pytest.approx(0.6 / 3), "each of the three others adds as much"


def test_a_stage_is_measured_where_it_is_all_there_and_waits_for_nobody() -> None:
    """Vectors that were foreseen are there at once; what is remembered needs no encode, what was told no decision."""
    alone = answer(41, 4.0, decide=18.0, concentrate=1.5, warm=60.0, decode=9.0)
    told = answer(41, 3.0, image=0.5, encode=0.0, decide=0.0, ttft=40.5)
    times = fit("here", [alone], [told], [[told] * 2])
    assert (times.image_ms, times.encode_ms, times.decide_ms) == (5.0, 20.0, 4.5)
    assert (times.warm_ms, times.concentrate_ms, times.decode_ms) == (25.0, 15.0, 4.0)
    assert [times.step_ms, times.first_token_ms] == pytest.approx([3.0, 40.0])


def test_a_model_that_answers_in_boxes_has_stages_of_its_own() -> None:
    boxed = answer(41, 3.0)
    timings = {name: ms for name, ms in boxed.timings_ms.items() if name != "concentrate"}
    times = fit("here", [replace(boxed, timings_ms=timings)], [boxed], [[boxed] * 2])
    assert times.decide_ms == 0.0


def test_who_is_first_to_end_had_company_all_the_time() -> None:
    group = [answer(20, 3.9), answer(80, 3.1), answer(90, 3.0)]
    times = fit("here", [answer(41, 3.0)], [answer(41, 3.0)], [group])
    assert times.step_ms_per_sequence == pytest.approx(0.45)


def test_company_never_makes_a_step_faster() -> None:
    one = [answer(41, 3.0)]
    assert fit("here", one, one, [[answer(41, 2.0)] * 2]).step_ms_per_sequence == 0


@pytest.mark.parametrize("useless", [[], [answer(1, 3.0)], [answer(40, 3.0, objects=0)]])
def test_nothing_to_learn_from_is_said(useless: list[Measured]) -> None:
    useful = [answer(41, 3.0)]
    for alone, told, company in (
        (useless, useful, [useful * 2]),
        (useful, useless, [useful * 2]),
        (useful, useful, [[*useless, *useful]]),
    ):
        with pytest.raises(ValueError, match="reasoned and found"):
            fit("here", alone, told, company)


def test_groups_without_company_are_left_out() -> None:
    one = [answer(41, 3.0)]
    groups = [[answer(41, 9.0), replace(answer(41, 9.0), objects=0)], [answer(41, 3.5)] * 2]
    assert fit("here", one, one, groups).step_ms_per_sequence == pytest.approx(0.5)
