"""Other ways to run the language model: what is compared with what, and whose machine time is counted."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loadtests.bench import ways
from loadtests.bench.states_inbox import NORM, TAG_BYTES, open_inbox
from loadtests.bench.ways import Took, as_lines, cosines_of, further_flags, processes_at


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
    assert "tap_least_cosine" not in lines, "its vectors mean nothing"


def test_vectors_are_compared_where_there_are_as_many() -> None:
    one, two = np.array([[1.0, 0.0]], np.float32), np.array([[1.0, 1.0], [0.0, 2.0]], np.float32)
    assert cosines_of(one, two) == []
    assert cosines_of(2 * two, two) == pytest.approx([1, 1])
    assert cosines_of(one, two[1:]) == [0.0]


async def test_states_arrive_by_their_tag_and_are_normed(tmp_path: Path) -> None:
    weight = torch.tensor([1.0, 2.0, 3.0])
    (tmp_path / "config.json").write_text('{"text_config": {"rms_norm_eps": 0.0}}')
    save_file({NORM: weight}, tmp_path / "model.safetensors")
    address = tmp_path / "inbox"
    async with open_inbox(tmp_path, address) as inbox:
        first, second = inbox.expect(), inbox.expect()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            for tag, size in ((second, 2.0), ("nobody's", 1.0), (first, 1.0)):
                states = np.full((2, 3), size, np.float32)
                line.sendto(tag.encode().ljust(TAG_BYTES) + states.tobytes(), str(address))
        for tag in (first, second):
            np.testing.assert_allclose(await inbox.take(tag), [[1, 2, 3]] * 2, rtol=1e-6)


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


def test_states_are_extracted_behind_the_last_layer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"num_hidden_layers": 7}}')
    flags = dict(batched(further_flags("states", tmp_path, tmp_path / "inbox")))
    extracting = json.loads(flags["--speculative-config"])
    assert extracting["draft_model_config"]["hf_config"]["eagle_aux_hidden_state_layer_ids"] == [7]
    connector = json.loads(flags["--kv-transfer-config"])
    assert find_spec(connector["kv_connector_module_path"]) is not None
    assert set(dict(batched(further_flags("ngram", tmp_path, tmp_path / "inbox")))) == {
        "--speculative-config"
    }


def batched(words: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(zip(words[::2], words[1::2], strict=True))


def test_no_rounds_are_a_wrong_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ways", "--rounds", "0"])
    with pytest.raises(SystemExit) as ended:
        ways.main()
    assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err
