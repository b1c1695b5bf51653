"""Decisions: the confusion matrix by counting, the calibration by hand and by a plain loop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.evaluation.metrics import Decision, calibration, confusion

types = st.sampled_from(("modal", "amodal"))
decisions = st.lists(
    st.builds(Decision, types, st.one_of(st.none(), types), st.one_of(st.none(), st.floats(0, 1))),
    max_size=30,
)


@given(decisions)
def test_the_matrix_counts_every_decision_once(made: list[Decision]) -> None:
    matrix = confusion(made)
    assert sum(sum(row.values()) for row in matrix.values()) == len(made)
    for wanted, row in matrix.items():
        for decided, count in row.items():
            assert count == sum(d.wanted == wanted and (d.decided or "none") == decided for d in made)


@given(decisions)
def test_ece_is_the_weighted_gap_of_the_bins(made: list[Decision]) -> None:
    known = [(d.confidence, float(d.decided == d.wanted)) for d in made if d.confidence is not None]
    if not known:
        assert calibration(made) is None
        return
    total = 0.0
    for place in range(10):
        low, high = place / 10, (place + 1) / 10
        members = [(c, right) for c, right in known if low < c <= high or (place == 0 and c == 0)]
        total += abs(sum(right - c for c, right in members))
    found = calibration(made)
    assert found is not None
    assert found.ece == pytest.approx(total / len(known))
    assert sum(each.count for each in found.bins) == len(known)


def test_a_sure_and_wrong_model_is_badly_calibrated() -> None:
    sure = [Decision("modal", "amodal", 1.0), Decision("modal", "modal", 1.0)]
    found = calibration(sure)
    assert found is not None
    assert found.ece == 0.5
    assert [(each.low, each.high, each.count, each.accuracy) for each in found.bins] == [(0.9, 1.0, 2, 0.5)]
    assert confusion(sure) == {
        "modal": {"modal": 1, "amodal": 1, "none": 0},
        "amodal": {"modal": 0, "amodal": 0, "none": 0},
    }


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated() -> None:
    made = [Decision("modal", "modal" if n < 8 else "amodal", 0.8) for n in range(10)]
    found = calibration(made)
    assert found is not None
    assert found.ece == pytest.approx(0.0)
