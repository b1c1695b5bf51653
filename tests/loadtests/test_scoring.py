"""The measurement of scoring: it scores what a whole file of results holds, and asks nobody."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtests import scoring
from loadtests.scoring import Round, draw, score_all, write


def questions(count: int) -> Round:
    """So many."""
    return Round(count, tuple(draw(place) for place in range(scoring.SCENES)))


def test_all_results_are_read_and_scored(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write(path, questions(6))
    report = score_all(path, questions(6))
    assert (report.queries, report.failed, report.faults) == (6, 0, {})
    assert report.decision_accuracy == 0.5
    for figure in (report.giou.modal, report.giou.amodal, report.hidden_iou, report.boundary_iou):
        assert figure is not None
        assert 0.1 < figure < 1.0
    with pytest.raises(BaseExceptionGroup, match="unhandled errors"):
        score_all(path, questions(7))


def test_the_scenes_have_something_hidden() -> None:
    for place in range(scoring.SCENES):
        seen, front, whole = draw(place)
        assert not (seen & front).any()
        assert np.count_nonzero(whole & ~seen) > 500


def test_a_line_holds_the_seconds_against_as_many_as_may_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scoring", "--results", "10", "--rounds", "2"])
    scoring.main()
    told, line = map(json.loads, capsys.readouterr().out.splitlines())
    assert told["results"] == 10
    assert (line["figure"], line["rounds"], line["against"]) == ("scoring", 2, 0.02)
