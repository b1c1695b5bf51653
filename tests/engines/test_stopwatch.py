"""What a request's stages took."""

from __future__ import annotations

from engines.stopwatch import Stopwatch


def test_a_stage_that_is_done_twice_adds_up_and_a_mark_counts_once() -> None:
    times = iter(range(100))
    watch = Stopwatch(clock=lambda: float(next(times)))
    for _ in range(3):
        with watch.stage("concentrate"):
            pass
        watch.mark("ttfm")
    assert watch.milliseconds == {"concentrate": 3000.0, "ttfm": 3000.0}
