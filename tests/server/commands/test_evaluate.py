"""``r2sm evaluate`` against a gateway with a scripted language model and a real, tiny vision model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from typer.testing import CliRunner

from engines.evaluation.datasets.demo import DemoSet
from engines.evaluation.report import summarise
from engines.evaluation.runner import Plan
from server.cli import app
from server.client import SegmentClient, SegmentFailed
from server.commands import evaluate as command
from server.commands.evaluate import ask_all, to_answer
from server.retries import NEVER, Retries
from server.schemas import SegmentResponse
from tests.engines.evaluation import layouts
from tests.stand_ins import ScriptedMllm

if TYPE_CHECKING:
    from tests.server.conftest import Gateway, OpenGateway

SET = DemoSet(20_260_001, 6)
DECISION = {"mask_type": "amodal", "confidence": 0.9, "source": "model"}
MODEL = {"id": "tiny", "grounder": "coprs", "mask_types": ["modal"], "reasoning_tokens": {}, "vision": {}}
RESPONSE: dict[str, object] = {
    "id": "1",
    "model": "tiny",
    "image": {"id": "sha256:0", "width": 4, "height": 2},
    "reasoning": None,
    "decision": DECISION,
    "masks": [],
    "hidden": [],
    "heatmap": None,
    "timings_ms": {"total": 5.0},
    "usage": {"prompt_tokens": 1, "reasoning_tokens": 0},
}


def client_of(gateway: Gateway) -> SegmentClient:
    """A client that speaks to a gateway without a socket, and leaves trying again to the run, as the command does."""
    return SegmentClient("http://gateway", httpx.ASGITransport(gateway.app), retries=NEVER)


async def until_ready(gateway: Gateway) -> None:
    """Wait for the warm-up request to pass."""
    async with client_of(gateway) as client:
        while not await client.ready():  # noqa: ASYNC110  # over HTTP nobody is told
            await asyncio.sleep(0.01)


async def test_every_question_is_asked_and_scored(open_gateway: OpenGateway) -> None:
    async with open_gateway(ScriptedMllm(p_modal=1.0)) as gateway:
        await until_ready(gateway)
        outcomes = (await ask_all(SET, client_of(gateway), Plan(concurrency=2), "auto")).outcomes
    report = summarise(outcomes)
    assert (report.queries, report.failed) == (6, 0)
    wanted = [question.mask_type for seed in SET.scenes() for question in SET.questions(seed)]
    assert report.decision_accuracy == pytest.approx(wanted.count("modal") / 6)
    assert report.reasoning_accuracy == 0.0  # the script speaks of a mug and a box without their colours
    assert report.object_accuracy == 1.0
    assert {"reason", "encode", "total"} <= report.stages_ms.keys()


async def test_a_model_that_fails_is_counted(open_gateway: OpenGateway) -> None:
    async with open_gateway() as gateway:
        await until_ready(gateway)
        gateway.mllm.failing.add("decide")
        report = summarise((await ask_all(SET, client_of(gateway), Plan(2), "auto")).outcomes)
    assert (report.queries, report.failed) == (6, 6)
    assert "The model is not available" in report.errors[0]


async def test_a_server_that_is_not_ready_is_not_evaluated(open_gateway: OpenGateway) -> None:
    mllm = ScriptedMllm(healthy=False)
    async with open_gateway(mllm, wait=False) as gateway:
        with pytest.raises(SegmentFailed, match="not ready"):
            await ask_all(SET, client_of(gateway), Plan(concurrency=2), "auto")
    assert mllm.calls == []


def test_masks_are_sorted_by_type_and_object() -> None:
    def mask(number: int, mask_type: str) -> dict[str, object]:
        rle = {"size": [2, 4], "counts": f"{mask_type}{number}"}
        return {
            "object": number,
            "mask_type": mask_type,
            "rle": rle,
            "bbox": [0, 0, 1, 1],
            "area": 1,
            "score": 1,
        }

    masks = [mask(1, "modal"), mask(0, "amodal"), mask(0, "modal")]
    answer = to_answer(SegmentResponse.model_validate({**RESPONSE, "masks": masks}))
    assert [code["counts"] for code in answer.masks["modal"]] == ["modal0", "modal1"]
    assert [code["counts"] for code in answer.masks["amodal"]] == ["amodal0"]
    assert (answer.mask_type, answer.reasoning, answer.timings_ms) == ("amodal", "", {"total": 5.0})


def answering(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command talk to a server that is ready and answers every request with `status`."""
    talking_to(lambda _: httpx.Response(status, json=RESPONSE), monkeypatch)


def talking_to(respond: Callable[[httpx.Request], httpx.Response], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command talk to a server that is ready and answers every request so."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/readyz":
            return httpx.Response(200, json={"status": "ready"})
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"object": "list", "data": [MODEL]})
        return respond(request)

    transport = httpx.MockTransport(answer)

    def client(url: str, retries: Retries, key: str | None) -> SegmentClient:
        return SegmentClient(url, transport, retries, key)

    monkeypatch.setattr(command, "SegmentClient", client)


def test_json_is_all_that_goes_to_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(200, monkeypatch)
    result = CliRunner().invoke(app, ["evaluate", "--seed", "20260001", "--limit", "2", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["dataset"], report["seed"], report["limit"], report["queries"]) == ("demo", 20260001, 2, 2)
    assert set(report["giou"]) == {"all", "modal", "amodal"}


def test_failed_queries_end_in_exit_code_1_with_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(500, monkeypatch)
    result = CliRunner().invoke(app, ["evaluate", "--limit", "2", "--retries", "0"])
    assert result.exit_code == 1
    assert "queries              2 (2 failed)" in result.stdout


@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (2, 3)])
def test_a_refusal_is_asked_again_as_often_as_told_after_the_time_it_names(
    retries: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.evaluation.runner.FIRST_WAIT", 0.0)
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr("engines.evaluation.runner.asyncio.sleep", sleep)
    refused: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        refused.append(request)
        return httpx.Response(429, headers={"Retry-After": "7"})

    talking_to(refuse, monkeypatch)
    result = CliRunner().invoke(app, ["evaluate", "--limit", "1", "--retries", str(retries)])
    assert result.exit_code == 1
    assert (len(refused), paused) == (asked, [7.0] * retries)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--seed", "5"], 2, "are for training"),
        (["--concurrency", "0"], 2, "concurrency must be at least 1"),
        (["--published", "rows.toml"], 2, "which is not asked for"),
        (["--published", "rows.toml", "--report", "."], 2, "rows.toml: [Errno 2]"),
        (["--report", "/proc/report"], 2, "nothing can be written in /proc/report"),
        (["--results", "/"], 2, "--results: / cannot be written: Is a directory"),
        (["--results", "/proc/results/run"], 2, "--results: /proc/results/run cannot be written"),
        (["--results", "/dev/null/run"], 2, "--results: /dev/null/run cannot be written: Not a directory"),
        (["--url", "http://127.0.0.1:9"], 1, "is `r2sm serve` running?"),
        (["--heatmaps", "--mask-type", "both"], 2, "one heatmap shows both masks"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    arguments: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "--url" not in arguments:
        answering(200, monkeypatch)
    result = CliRunner().invoke(app, ["evaluate", "--limit", "1", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code
    assert message in result.stderr


def test_a_data_set_on_disk_is_evaluated_with_a_report_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(200, monkeypatch)
    folder = layouts.r2sm(tmp_path / "data", layouts.query(), layouts.query(" "))
    arguments = ["evaluate", "--dataset", "r2sm", "--data", str(folder), "--report", str(tmp_path / "report")]
    arguments += ["--results", str(tmp_path / "results.jsonl"), "--json"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    assert (report["dataset"], report["queries"], report["faults"]) == ("r2sm", 1, {"empty_query": 1})
    assert report["confusion"]["amodal"] == {"modal": 0, "amodal": 1, "none": 0}
    assert json.loads((tmp_path / "report/report.json").read_text()) == report
    assert "<!doctype html>" in (tmp_path / "report/report.html").read_text()
    rows = tmp_path / "rows.toml"
    rows.write_text(
        '[[table]]\ntitle = "Ours"\nsource = "us"\nlayouts = ["r2sm"]\ncolumns = ["AP"]\n'
        'rows = [{ system = "last month", figures = [20] }]\n'
    )
    answering(500, monkeypatch)
    assert (
        json.loads(CliRunner().invoke(app, [*arguments, "--published", str(rows)]).stdout) == report
    )  # nothing is asked a second time
    assert "last month [rows.toml]" in (tmp_path / "report/report.html").read_text()
    (tmp_path / "unwritable/report.json").mkdir(parents=True)
    unwritten = CliRunner().invoke(app, [*arguments, "--report", str(tmp_path / "unwritable")])
    assert (unwritten.exit_code, json.loads(unwritten.stdout)) == (1, report)
    assert "r2sm: the report cannot be written: [Errno 21] Is a directory" in unwritten.stderr
    strict = CliRunner().invoke(app, [*arguments, "--strict"], env={"COLUMNS": "200"})
    assert strict.exit_code == 2
    assert "no words" in strict.stderr


def test_a_run_whose_results_cannot_be_kept_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SegmentClient", lambda *_, **__: pytest.fail("the server was asked"))
    result = CliRunner().invoke(app, ["evaluate", "--limit", "1", "--results", str(tmp_path)])
    assert result.exit_code == 2, result.output


def test_results_go_into_a_folder_that_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(200, monkeypatch)
    kept = tmp_path / "new" / "folder" / "run.jsonl"
    result = CliRunner().invoke(app, ["evaluate", "--limit", "1", "--results", str(kept)])
    assert result.exit_code == 0, result.output
    assert len(kept.read_text().splitlines()) == 2


def test_a_limit_above_what_there_is_fills_the_bar_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(200, monkeypatch)
    folder = layouts.r2sm(tmp_path, layouts.query())
    arguments = ["evaluate", "--dataset", "r2sm", "--data", str(folder), "--limit", "50"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "100%" in result.stderr
    assert "1/1 " in result.stderr


def test_a_data_set_of_which_nothing_can_be_used_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(200, monkeypatch)
    folder = layouts.r2sm(tmp_path, layouts.query(" "), layouts.query(""))
    result = CliRunner().invoke(app, ["evaluate", "--dataset", "r2sm", "--data", str(folder)])
    assert result.exit_code == 1
    assert "no query could be asked" in result.stderr
    assert "skipped: 2 × empty_query" in result.stdout


def test_a_forced_type_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bytes] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        return httpx.Response(200, json={**RESPONSE, "decision": {**DECISION, "source": "request"}})

    talking_to(respond, monkeypatch)
    folder = layouts.r2sm(tmp_path, layouts.query())
    arguments = ["evaluate", "--dataset", "r2sm", "--data", str(folder), "--mask-type", "given", "--json"]
    report = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert b'"mask_type":"amodal"' in asked[-1]
    assert report["decision_accuracy"] is None
