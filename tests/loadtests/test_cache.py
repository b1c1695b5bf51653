"""What of a second prompt no cache can save."""

from __future__ import annotations

import pytest

from loadtests.cache import writing_ms


@pytest.mark.parametrize(
    ("timings", "expected"),
    [
        ({"queue": 1.0, "image": 2.0, "reason": 100.0, "ttft": 23.0}, 80.0),
        ({"queue": 1.0, "image": 2.0, "reason": 0.0}, 0.0),
    ],
)
def test_writing_is_from_the_first_token_to_the_end_of_the_reasoning(
    timings: dict[str, float], expected: float
) -> None:
    assert writing_ms(timings) == expected
