"""Whole load tests, Locust and all, against a gateway in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtests.load.arrivals import Load
from loadtests.load.objectives import Objectives
from loadtests.load.records import LEFT, read_records
from loadtests.load.report import make_report, write_report
from loadtests.load.run import Plan, run
from loadtests.load.scenarios import SCENARIOS, TRANSPORTS
from server.cli import app
from server.running import run_gateway
from server.settings import Settings
from tests.server.gateway_process import ROOT, gateway
from tests.vllm_fixture import ServedModel
from tests.waiting import until

NOBODY = "http://127.0.0.1:9"
pytestmark = pytest.mark.skipif(find_spec("locust") is None, reason="Locust is not installed")


def test_what_starts_locust_is_not_patched_by_it() -> None:
    code = "import loadtests.command, sys; sys.exit('gevent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
async def url() -> AsyncIterator[str]:
    """A gateway whose answers take long enough for everybody who wants to leave."""
    async with gateway(1.0) as (_, http):
        yield str(http.base_url).rstrip("/")


async def test_every_transport_is_measured_and_clients_that_leave_are_told_apart(
    url: str, tmp_path: Path
) -> None:
    plan = Plan(SCENARIOS["mixed"], Load((6.0,), 4.0), url, tmp_path, TRANSPORTS, seed=4)
    ran = await asyncio.to_thread(run, plan, lambda _: None)
    assert ran.fault == ""
    assert {record.transport for record in ran.records} == set(TRANSPORTS)
    assert {record.outcome for record in ran.records} == {"ok", LEFT}
    assert {record.nth for record in ran.records} == {0, 1}
    reasoned = [r for r in ran.records if r.ttft_ms is not None and r.ttfm_ms is not None]
    assert reasoned
    assert all(r.ttft_ms < r.ttfm_ms <= (r.end_to_end_ms or 0.0) for r in reasoned if r.ttft_ms and r.ttfm_ms)
    assert all("ttft_ms" not in r.model_fields_set for r in ran.records if r.transport == "rest")
    figures = make_report(ran, Objectives()).whole.figures
    assert 0 < figures["cache_hits_embedding"] < 1
    assert "queue_wait_ms" in figures


async def test_processes_bring_clients_of_their_own(url: str, tmp_path: Path) -> None:
    plan = Plan(SCENARIOS["catalogue"], Load((8.0,), 3.0), url, tmp_path, ("rest",), seed=4, processes=2)
    ran = await asyncio.to_thread(run, plan, lambda _: None)
    assert ran.fault == ""
    moments = [record.intended for record in ran.records]
    assert len(set(moments)) == len(moments) > 8


async def test_a_server_that_dies_ends_the_run_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    async with gateway(0.05) as (child, http):
        url = str(http.base_url).rstrip("/")
        plan = Plan(SCENARIOS["catalogue"], Load((10.0,), 600.0), url, tmp_path, TRANSPORTS)

        async def kill() -> None:
            records = tmp_path / "requests.jsonl"
            await until(lambda: records.exists() and len(records.read_bytes()) > 2000)
            child.process.kill()

        ran, _ = await asyncio.gather(asyncio.to_thread(run, plan, lambda _: None), kill())
    assert ran.fault == f"the server at {url} no longer answers"
    assert [record for record in ran.records if record.outcome == "ok"]
    report = make_report(ran, Objectives())
    assert not report.kept
    assert "Incomplete" in write_report(report).read_text("utf-8")
    assert json.loads((tmp_path / "report.json").read_text())["complete"] is False


SLOW = """
import signal, sys, time
from pathlib import Path
path = Path(sys.argv[1])
path.write_text("")
def stop(*_):
    path.write_text('{"fault": "it was told to"}\\n')
    sys.exit()
signal.signal(signal.SIGTERM, stop)
time.sleep(600)
"""


def test_a_run_has_an_end_and_tells_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Locust that waits for ever, as its master does when one of several workers is lost."""
    records = str(tmp_path / "requests.jsonl")
    monkeypatch.setattr(Plan, "command", lambda _: [sys.executable, "-c", SLOW, records])
    monkeypatch.setattr("loadtests.load.run.START_SECONDS", 2.0)
    plan = Plan(
        SCENARIOS["catalogue"], Load((1.0,), 0.1), NOBODY, tmp_path, TRANSPORTS, patience=0.1, workers=2
    )
    assert run(plan, lambda _: None).fault == "it was not over after 2 s"


def test_workers_that_never_come_are_waited_for_no_longer_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtests.load.run.WORKERS_SECONDS", 1)
    plan = Plan(SCENARIOS["catalogue"], Load((1.0,), 0.1), NOBODY, tmp_path, TRANSPORTS, workers=2)
    assert "waiting for workers" in run(plan, lambda _: None).fault


KILLED = f"""
import sys
from pathlib import Path
from loadtests.load.arrivals import Load
from loadtests.load.run import Plan, run
from loadtests.load.scenarios import SCENARIOS, TRANSPORTS
Plan.command = lambda _: ["sh", "-c", "echo $$ > pid; sleep 600 & wait"]
run(Plan(SCENARIOS["catalogue"], Load((1.0,), 60.0), "{NOBODY}", Path("."), TRANSPORTS), print)
"""


async def test_nothing_loads_a_server_on_when_the_command_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, cwd=tmp_path, env=environment)
    written = tmp_path / "pid"
    await until(lambda: written.exists() and written.read_text().endswith("\n"))
    parent.kill()
    await parent.wait()
    pid = written.read_text().strip()
    await until(lambda: not Path(f"/proc/{pid}").exists())


def test_the_command_ends_as_the_objectives_say(url: str, tmp_path: Path) -> None:
    slo = tmp_path / "slo.toml"
    slo.write_text("[catalogue.at_most]\nend_to_end_ms_p50 = 0.001\n")
    words = ["loadtest", "catalogue", "--url", url, "--seconds", "2"]
    words += ["--report", str(tmp_path / "report"), "--slo", str(slo), "--transport", "rest"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "MISSED end_to_end_ms_p50" in result.output
    assert "INCOMPLETE" not in result.output
    assert (tmp_path / "report" / "report.html").exists()


def test_over_rest_alone_nobody_asks_for_the_first_token(url: str, tmp_path: Path) -> None:
    slo = tmp_path / "slo.toml"
    slo.write_text("[mixed.at_most]\nttft_ms_p95 = 1000\nttfm_ms_p95 = 60000\n")
    words = ["loadtest", "mixed", "--url", url, "--seconds", "2", "--rates", "6", "--seed", "4"]
    words += ["--report", str(tmp_path / "report"), "--slo", str(slo), "--transport", "rest"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "not shown" in result.output
    records = read_records(tmp_path / "report" / "requests.jsonl").records
    assert any(record.reasoning_tokens for record in records)


def test_a_report_that_cannot_be_written_is_said(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["loadtest", "catalogue", "--url", url, "--report", str(tmp_path / "file")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "r2sm: [Errno 17] File exists" in result.output


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["nonsense"], "nonsense"),
        (["mixed", "--rates", "fast"], "--rates fast"),
        (["mixed", "--rates", "0"], "above 0"),
        (["mixed", "--slo", "away.toml"], "away.toml"),
        (["mixed", "--images", "away"], "away is no folder"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_starts(words: list[str], fault: str) -> None:
    result = CliRunner().invoke(app, ["loadtest", *words])
    assert result.exit_code == 2
    assert fault in result.output


def test_without_a_server_there_is_no_run(tmp_path: Path) -> None:
    words = ["loadtest", "mixed", "--url", NOBODY, "--report", str(tmp_path / "report")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert f"no answer from {NOBODY}" in result.output
    assert not (tmp_path / "report").exists()


@pytest.mark.vllm
async def test_a_load_on_real_vllm_keeps_its_objectives(served_model: ServedModel, tmp_path: Path) -> None:
    if served_model.bundle is None:
        pytest.skip("no demo bundle")
    settings = Settings(
        bundle=served_model.bundle,
        port=0,
        reason_url=(served_model.reason_url,),
        concentrate_url=(served_model.concentrate_url,),
    )
    async with run_gateway(settings) as running:
        await running.wait_ready(120.0)
        plan = Plan(SCENARIOS["chat"], Load((2.0,), 6.0), running.url, tmp_path, TRANSPORTS, seed=2)
        ran = await asyncio.to_thread(run, plan, lambda _: None)
    report = make_report(ran, Objectives(at_most={"error_share": 0.0}))
    assert report.kept
    assert report.whole.figures["ms_per_token_p50"] > 0
