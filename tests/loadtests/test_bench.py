"""The benchmark's figures, its regression gate, and the reference held against the demo bundle's own pipeline."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import cast

import pytest

from engines.bundles import Bundle
from engines.errors import InvalidInput
from engines.vision.masks import iou
from engines.vision.runtimes import open_runtime
from loadtests.bench import __main__ as bench
from loadtests.bench import systems
from loadtests.bench.check import Kept, as_table, compare, noise_of, read_ratios, record
from loadtests.bench.figures import FIGURES, Pair, Pairs, as_line
from loadtests.bench.reference import Reference
from loadtests.bench.script import PlainScript
from loadtests.bench.systems import Another, Bare, Gateway, ReferenceAlone, Systems, open_bare
from loadtests.bench.trials import Size, process_cpu_ms, spell
from loadtests.load.questions import demo_pictures
from server.client import SegmentClient, ServerAway
from tests.server.gateway_process import gateway
from tests.stand_ins import tiny_vision
from tests.vllm_fixture import ServedModel
from tests.waiting import until


def pairs(**ratios: float) -> Pairs:
    return {name: [Pair(ratio, 1.0)] for name, ratio in ratios.items()}


def test_a_line_has_medians_the_spread_and_the_verdict() -> None:
    line = as_line("one_client_reference", [Pair(60, 100), Pair(90, 100), Pair(70, 100)])
    assert line["ratio"] == 0.7
    assert line["spread"] == [0.6, 0.9]
    assert line["target"] == "<= 0.7"
    assert line["kept"] is True
    assert json.loads(json.dumps(line)) == line
    assert as_line("many_clients_reference", [Pair(39, 10)])["kept"] is False
    assert as_line("many_clients_fastapi", [Pair(39, 10)])["kept"] is None
    cpu = as_line("gateway_cpu", [Pair(2.5, 10.0)])
    assert (cpu["ratio"], cpu["kept"]) == (0.25, True), "its target is in milliseconds"


def test_the_band_is_what_repeats_showed() -> None:
    repeats = [pairs(second_prompt=ratio, one_client_script=1.0) for ratio in (0.5, 0.6, 0.45)]
    repeats[0]["draft_new"] = [Pair(1.0, 2.0)]
    assert noise_of(repeats) == {
        "one_client_script": Kept(ratio=1.0, noise=0.0, repeats=3),
        "second_prompt": Kept(ratio=0.5, noise=0.2, repeats=3),
    }


def test_what_is_worse_by_more_than_its_noise_is_found_either_way_round(tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    record(path, [pairs(second_prompt=r, many_clients_reference=10 * r) for r in (0.5, 0.55, 0.5)])
    kept = read_ratios(path)

    def worse(**ratios: float) -> set[str]:
        return {one.figure for one in compare(kept, pairs(**ratios)) if one.worse}

    assert worse(second_prompt=0.59, many_clients_reference=4.1) == set()
    assert worse(second_prompt=0.1, many_clients_reference=99) == set(), "better is never worse"
    assert worse(second_prompt=0.61, many_clients_reference=4.1) == {"second_prompt"}
    assert worse(second_prompt=0.59, many_clients_reference=3.9) == {"many_clients_reference"}
    assert worse(second_prompt=0.59) == {"many_clients_reference"}, "what is no longer measured"
    assert "WORSE second_prompt" in as_table(compare(kept, pairs(second_prompt=1.0)))


def test_a_part_of_the_answer_is_no_worse_when_the_rest_is_faster() -> None:
    kept = {"part_reason": Kept(ratio=0.5, noise=0.0, repeats=5)}
    assert compare(kept, pairs(part_reason=0.9)) == []
    assert noise_of([pairs(part_reason=0.5)]) == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "is not there"),
        ("{", "Invalid JSON"),
        ('{"speed": {"ratio": 1, "noise": 0, "repeats": 3}}', "speed"),
    ],
)
def test_kept_ratios_that_cannot_be_used_are_named(tmp_path: Path, text: str | None, fault: str) -> None:
    path = tmp_path / "ratios.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInput, match=fault):
        read_ratios(path)


def test_the_targets_are_those_that_were_set() -> None:
    targets = {name: figure.limit for name, figure in FIGURES.items() if figure.limit is not None}
    assert targets == {
        "one_client_reference": 0.7,
        "one_client_script": 1.1,
        "many_clients_reference": 4,
        "many_clients_litserve": 2,
        "many_clients_script": 1.15,
        "four_prompts_reference": 6,
        "four_prompts_litserve": 3,
        "last_token_to_mask": 3,
        "second_prompt": 0.6,
        "draft_known": 0.35,
        "draft_new": 0.6,
        "gateway_cpu": 3,
    }


class Counting:
    def __init__(self, name: str = "counting") -> None:
        self.name = name
        self.now = self.most = self.asked = 0
        self.files: list[bytes] = []

    async def ask(self, data: bytes, prompt: str) -> int:
        self.now += 1
        self.asked += 1
        self.files.append(data)
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        return 1


async def test_a_spell_asks_everything_once_with_so_many_clients_at_once() -> None:
    system = Counting()
    found = await spell(system, [(b"", "a")] * 20, clients=3)
    assert (system.asked, system.most) == (20, 3)
    assert found.per_second > 0


async def test_a_system_that_dies_leaves_what_was_measured_marked_incomplete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Dying:
        def __init__(self, number: int, systems: object, size: Size, found: Pairs) -> None:
            self.number, self.found = number, found

        async def run(self) -> None:
            if self.number == 1:
                raise ServerAway("nobody answers")
            self.found["second_prompt"] = [Pair(1.0, 2.0)]

    monkeypatch.setattr(bench, "Round", Dying)
    found = await bench.measure(None, Size(1, 1), rounds=3)  # type: ignore[arg-type]  # nothing is asked
    assert found.fault == "ServerAway: nobody answers"
    bench.tell_figures(found, Size(1, 1))
    head, line = map(json.loads, capsys.readouterr().out.splitlines())
    assert head["complete"] is False
    assert (line["figure"], line["ratio"]) == ("second_prompt", 0.5)


class Parts(Counting):
    """Stands in for the plain script, which needs vLLM."""

    async def timed_parts(self, data: bytes, prompt: str) -> dict[str, float]:
        return {"reason": 0.2, "concentrate": 0.1, "encode": 0.1, "decode": 0.05}


class Streamer:
    """Stands in for the bare server, which needs vLLM, too."""

    pid = os.getpid()

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.asked: list[str] = []

    async def keep(self, name: str, data: bytes, prompt: str) -> None:
        self.kept[name] = data

    async def ask(self, name: str, data: bytes) -> str:
        assert self.kept[name] == data
        self.asked.append(name)
        return ""


async def test_a_round_measures_every_figure_and_nobody_sees_a_file_of_anothers(tmp_path: Path) -> None:
    """A real gateway on stand-in engines; stand-ins for those it is compared with."""
    reference, litserve, fastapi, script = (
        Parts(name) for name in ("reference", "litserve", "fastapi", "script")
    )
    bare = Streamer()
    async with gateway(1.0) as (child, http), SegmentClient(str(http.base_url)) as client:
        systems = Systems(
            reference=cast(ReferenceAlone, reference),
            litserve=cast(Another, litserve),
            fastapi=cast(Another, fastapi),
            gateway=Gateway(client, child.process.pid),
            script=cast(PlainScript, script),
            bare=cast(Bare, bare),
            runtime=tiny_vision(tmp_path),
        )
        found = await bench.measure(systems, Size(2, 2), rounds=1)
    assert found.fault == ""
    assert set(found.pairs) == set(FIGURES)
    assert all(len(pairs) == 1 and pairs[0].against > 0 for pairs in found.pairs.values())
    assert reference.most == 1, "one request at a time"
    assert litserve.most == fastapi.most == script.most == 2
    seen = [set(system.files) for system in (reference, litserve, fastapi, script)]
    assert sum(map(len, seen)) == len(set().union(*seen))
    assert len(litserve.files) > len(set(litserve.files)), "four prompts to an image"
    assert bare.asked == 2 * ["0.0", "1.0", "0.1", "1.1"], "first prompts make the images known"


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen(["sleep", "600"])
print(os.getpid(), worker.pid, flush=True)
time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Whether the process is there and has not ended."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


@pytest.mark.parametrize("stuck", [False, True], ids=["deaf", "deaf, on a leash that is stuck"])
async def test_a_server_that_does_not_end_is_killed(
    stuck: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "GRACE_SECONDS", 0.3)
    log = tmp_path / "log"
    async with asyncio.timeout(60):
        async with systems.child_process([sys.executable, "-c", STUBBORN], log) as child:
            await until(lambda: log.read_text().endswith("\n"))
            pids = [int(word) for word in log.read_text().split()]
            if stuck:
                os.kill(child.pid, signal.SIGSTOP)
        assert child.returncode is not None
        await until(lambda: not any(runs(pid) for pid in pids))


def busy(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_cpu_time_is_counted_over_all_threads_and_those_that_have_ended() -> None:
    before = process_cpu_ms(os.getpid())
    threads = [threading.Thread(target=busy, args=(0.03,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process_cpu_ms(os.getpid()) - before >= 59


def test_a_process_that_is_gone_has_no_cpu_time() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(ProcessLookupError):
        process_cpu_ms(gone.pid)


@pytest.mark.vllm
async def test_reference_and_script_segment_what_they_are_asked_for(
    served_model: ServedModel, tmp_path: Path
) -> None:
    """Both answer every prompt alike, alone and in a batch, up to the two frameworks' rounding."""
    if served_model.bundle is None:
        pytest.skip("no demo bundle")
    bundle = Bundle.load(served_model.bundle)
    runtime = open_runtime("auto", bundle.vision_path)
    reference = Reference(served_model.bundle)
    pictures = demo_pictures(4, 1)
    files, prompts = [picture.data for picture in pictures], [picture.prompt(0) for picture in pictures]
    try:
        async with PlainScript(
            bundle, served_model.reason_url, served_model.concentrate_url, runtime
        ) as script:
            scripted = await asyncio.gather(
                *(script.segment(*asked) for asked in zip(files, prompts, strict=True))
            )
            took = await script.timed_parts(files[0], prompts[0])
            async with open_bare(script, tmp_path) as bare:
                await bare.keep("one", files[0], prompts[0])
                streamed = await bare.ask("one", files[0])
                reasoning, _ = await script.reason(script.prepared(files[0]), prompts[0])
    finally:
        runtime.close()
    assert set(took) == {"reason", "concentrate", "encode", "decode"}
    assert reasoning
    assert streamed.startswith(reasoning), "the bare server streams what the script does"
    alone = [reference.segment([file], [prompt])[0] for file, prompt in zip(files, prompts, strict=True)]
    batch = reference.segment(files, prompts)
    for found in (scripted, batch):
        same = [
            len(one) == len(other) and all(iou(a, b) > 0.9 for a, b in zip(one, other, strict=True))
            for one, other in zip(found, alone, strict=True)
        ]
        assert sum(same) >= len(same) - 1, (found, alone)
