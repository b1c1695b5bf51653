"""Other ways to run the language model: what is compared with what, and whose machine time is counted."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from loadtests.bench import ways
from loadtests.bench.ways import Took, as_lines, cosines_of, processes_at


def took(here: float, reason: float, concentrate: float, latency: float) -> Took:
    return Took({"here": here, "reason": reason, "concentrate": concentrate}, latency, cosine=0.5)


def test_shares_are_of_the_stock_servers_and_each_way_is_over_them() -> None:
    stock = took(20, 60, 20, 100)
    rounds = [
        {
            "stock": stock,
            "tap": took(20, saved, 0, 50),
            "ngram": took(20, 120, 60, 120),
        }
        for saved in (50, 60, 70)
    ]
    lines = {str(line["figure"]): line for line in as_lines(rounds)}
    assert lines["cpu"]["value"] == 100
    assert {part: lines[f"cpu_{part}"]["share"] for part in stock.cpu} == {
        "here": 0.2,
        "reason": 0.6,
        "concentrate": 0.2,
    }
    assert lines["tap_machine_time"] == {
        "figure": "tap_machine_time",
        "over": "stock",
        "ratio": 0.8,
        "spread": [0.7, 0.9],
        "rounds": 3,
    }
    assert lines["tap_one_client"]["ratio"] == 0.5
    assert lines["ngram_machine_time"]["ratio"] == 2.0
    assert lines["ngram_reason_machine_time"]["ratio"] == 2.0
    assert lines["ngram_least_cosine"]["value"] == 0.5
    assert lines["tap_least_cosine"]["value"] == 0.5


def test_vectors_are_compared_where_there_are_as_many() -> None:
    one, two = np.array([[1.0, 0.0]], np.float32), np.array([[1.0, 1.0], [0.0, 2.0]], np.float32)
    assert cosines_of(one, two) == []
    assert cosines_of(2 * two, two) == pytest.approx([1, 1])
    assert cosines_of(one, two[1:]) == [0.0]


def test_a_server_is_known_by_its_port_and_its_children_by_it() -> None:
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    words = [sys.executable, "-c", parent, "--port", "64999"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdin is not None
        assert started.stdout is not None
        started.stdout.readline()
        found = processes_at("http://127.0.0.1:64999")
        assert len(found) == 2
        assert started.pid in found
        assert os.getpid() not in found
        assert processes_at("http://127.0.0.1:6499") == []
        started.stdin.close()


def test_no_rounds_are_a_wrong_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ways", "--rounds", "0"])
    with pytest.raises(SystemExit) as ended:
        ways.main()
    assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err
