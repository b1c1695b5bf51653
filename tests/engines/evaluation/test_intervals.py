"""The bootstrap against drawing groups one by one; correlation against numpy's."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.evaluation.metrics import ratio_interval, relate

pairs = st.lists(st.tuples(st.integers(0, 20), st.integers(-20, 20)), min_size=2, max_size=20)


def test_the_interval_is_that_of_groups_drawn_one_by_one() -> None:
    source = random.Random(3)
    rows = [(source.random(), 1.0, n // 3) for n in range(90)]
    draws = []
    for _ in range(4000):
        chosen = [source.randrange(30) for _ in range(30)]
        members = [row for group in chosen for row in rows[3 * group : 3 * group + 3]]
        draws.append(sum(row[0] for row in members) / sum(row[1] for row in members))
    plain = np.quantile(draws, [0.025, 0.975])
    found = ratio_interval(*zip(*rows, strict=True), resamples=4000)
    assert found is not None
    assert [found.low, found.high] == pytest.approx(list(plain), abs=0.006)


def test_a_figure_that_never_changes_has_no_width_and_one_picture_no_interval() -> None:
    found = ratio_interval([1.0] * 5, [1.0] * 5, range(5))
    assert found is not None
    assert (found.low, found.high) == (1.0, 1.0)
    assert ratio_interval([1.0, 0.0], [1.0, 1.0], ["a", "a"]) is None
    assert ratio_interval([], [], []) is None
    assert ratio_interval([0.0, 0.0], [0.0, 0.0], [1, 2]) is None


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [n % 7 / 7 for n in range(40)]
    assert ratio_interval(values, [1.0] * 40, range(40)) == ratio_interval(values, [1.0] * 40, range(40))


@given(pairs)
def test_correlation_and_line_are_numpys(pairs: list[tuple[int, int]]) -> None:
    xs, ys = ([float(pair[place]) for pair in pairs] for place in (0, 1))
    found = relate(xs, ys)
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        assert found is None
        return
    assert found is not None
    assert found.correlation == pytest.approx(np.corrcoef(xs, ys)[0, 1], abs=1e-9)
    slope, intercept = np.polyfit(xs, ys, 1)
    assert [found.slope, found.intercept] == pytest.approx([slope, intercept], abs=1e-6)


def test_figures_go_in_pairs() -> None:
    with pytest.raises(ValueError, match="1 figures cannot go with 2"):
        relate([1.0], [1.0, 2.0])
