"""Arrivals, pictures, objectives and figures of the load tests, without a server."""

from __future__ import annotations

import io
import json
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from inspect import signature
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from engines.errors import InvalidInput
from loadtests.command import loadtest, must_be_ready
from loadtests.load.arrivals import Load, arrivals
from loadtests.load.asking import Asked, Rest, Seen
from loadtests.load.figures import figure_names, is_good, summarise
from loadtests.load.objectives import SHIPPED, Objectives, Outcome, judge, read_objectives
from loadtests.load.questions import Picture, as_new, folder_pictures
from loadtests.load.records import Ending, Record, read_records
from loadtests.load.report import LoadReport, as_page, as_text, make_report, write_report
from loadtests.load.run import Plan, Ran
from loadtests.load.scenarios import SCENARIOS, TRANSPORTS, Transport, Wave
from loadtests.load.server_side import Reading, between, page_sums, read_metrics
from loadtests.load.visits import Visit, Visitor, Visits
from server.client import ServerAway


def record(intended: float, took: float | None, outcome: str = "ok", **more: object) -> Record:
    given = {"step": 0, "transport": "sse", "nth": 0, "sent_ms": 0.0, **more}
    return Record.model_validate(
        {**given, "intended": intended, "outcome": outcome, "ttfm_ms": took, "end_to_end_ms": took}
    )


def test_arrivals_are_as_many_as_the_rate_says_at_every_step_and_in_a_wave() -> None:
    load = Load((10.0, 40.0), 100.0, Wave(period=20, length=5, factor=3))
    came = np.array(list(arrivals(load, random.Random(3))))
    assert (np.diff(came) > 0).all()
    assert came[-1] < load.total
    for first, rate in ((0, 10), (100, 40)):
        inside = came[(came >= first) & (came < first + 100)]
        quiet = inside[(inside % 20) < 15]
        assert len(quiet) / 75 == pytest.approx(rate, rel=0.15)
        assert (len(inside) - len(quiet)) / 25 == pytest.approx(3 * rate, rel=0.15)


def test_gaps_between_arrivals_are_those_of_a_poisson_process_and_sources_add_up() -> None:
    load, chance = Load((20.0,), 500.0), random.Random(5)
    parts = [list(arrivals(load.share(4), chance)) for _ in range(4)]
    gaps = np.diff(np.sort(np.concatenate([np.array(part) for part in parts])))
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 20, rel=0.05), "exponential: as wide as it is long"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_made_new_shows_the_same_in_another_file(kind: str) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, kind)
    data = buffer.getvalue()
    new, other = as_new(data, "a"), as_new(data, "b")
    assert len({data, new, other}) == 3
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(new)) as after:
        assert (np.asarray(before) == np.asarray(after)).all()
        assert after.format == kind


def test_visits_are_what_the_scenario_says() -> None:
    pictures = [Picture(b"\xff\xd8" + bytes([number]), ("a", "b")) for number in range(8)]
    visits = Visits(SCENARIOS["chat"], pictures, TRANSPORTS, random.Random(1))
    drawn = [visits.draw() for _ in range(300)]
    assert {visit.transport for visit in drawn} == set(TRANSPORTS)
    assert len({visit.image for visit in drawn}) == 300, "each client brings a new image"
    assert all(len(visit.prompts) == 4 and visit.reasoning == "full" for visit in drawn)
    leaving = [left is not None for visit in drawn for left in visit.leaves]
    assert sum(leaving) / len(leaving) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(
    ("transport", "status", "answer", "outcome"),
    [
        ("rest", 200, "hello", "JSONDecodeError"),
        ("rest", 200, "{}", "KeyError"),
        ("rest", 200, "[]", "TypeError"),
        ("sse", 200, "data: {}\n\n", "KeyError"),
        ("sse", 200, "hello", "broken-off"),
        ("sse", 418, "[]", "http-418"),
        ("rest", 503, '{"type": "urn:r2sm:problem:overloaded"}', "overloaded"),
    ],
)
def test_a_request_is_counted_whatever_answers_it(
    transport: Transport, status: int, answer: str, outcome: str
) -> None:
    stranger = httpx.MockTransport(lambda _: httpx.Response(status, text=answer))
    visit = Visit(transport, b"\xff\xd8", ("the mug",), "full", (0.0,), (None,))
    with httpx.Client(base_url="http://server", transport=stranger) as http:
        visitor = Visitor(http, "http://server", None, 1.0, lambda _: nullcontext())
        now = time.perf_counter()
        [found] = visitor.make(visit, now, now, Load((1.0,), 1.0), lambda _: None)
    assert found.outcome == outcome


def test_an_answer_tells_how_many_tokens_its_reasoning_had() -> None:
    said = {"timings_ms": {}, "usage": {"prompt_tokens": 5, "reasoning_tokens": 17}}
    server = httpx.MockTransport(lambda _: httpx.Response(200, json={**said, "masks": []}))
    whole, streamed = Seen(0.0), Seen(0.0)
    with httpx.Client(base_url="http://server", transport=server) as http:
        Rest(http).ask(Asked("sha256:0", "the mug"), whole)
    streamed.hear({"type": "done", **said})
    assert whole.record(0.0, 0, "rest", 0).reasoning_tokens == 17
    assert streamed.record(0.0, 0, "sse", 0).reasoning_tokens == 17


def test_a_folder_of_images(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no folder"):
        folder_pictures(tmp_path / "away")
    with pytest.raises(InvalidInput, match="at least one prompt"):
        folder_pictures(tmp_path)
    (tmp_path / "prompts.txt").write_text("the mug\n\nthe cup\n")
    with pytest.raises(InvalidInput, match="holds no images"):
        folder_pictures(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    [picture] = folder_pictures(tmp_path)
    assert picture.prompts == ("the mug", "the cup")
    (tmp_path / "b.txt").write_text("no picture")
    with pytest.raises(InvalidInput, match=r"b\.txt is neither"):
        folder_pictures(tmp_path)


def test_files_of_a_folder_that_cannot_be_used_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"the caf\xe9\n")
    with pytest.raises(InvalidInput, match=r"prompts\.txt is no text in UTF-8"):
        folder_pictures(tmp_path)
    (tmp_path / "prompts.txt").write_text("the mug\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InvalidInput, match=r"a\.png: .* exceeds limit"):
        folder_pictures(tmp_path)


def test_the_shipped_objectives_name_figures_that_exist_for_every_scenario() -> None:
    for name in SCENARIOS:
        assert read_objectives(SHIPPED, name).at_most


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "[mixed.at_most]\nttfm_p95 = 1",
            r"mixed\.at_most: there is no figure ttfm_p95; there are ttft_ms_p50",
        ),
        ("[mixed.good]\nttfm_ms_p95 = 1", r"mixed\.good: there is no figure"),
        ("[mixed.at_mots]\nttfm_ms_p95 = 1", "at_mots: Extra inputs"),
        ("[mixed.at_most]\nttfm_ms_p95 = 'fast'", r"at_most\.ttfm_ms_p95: Input should be a valid number"),
        ("[chat.at_most]\nttfm_ms_p95 = 1", "no objectives for mixed"),
        ("mixed = [", "slo.toml: "),
    ],
)
def test_a_wrong_file_of_objectives_is_named(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=fault):
        read_objectives(path, "mixed")


def test_figures_of_known_requests() -> None:
    records = [
        *[record(number, 100.0 + number, ttft_ms=10.0, stages={"decode": 4.0}) for number in range(90)],
        record(90, 900.0, nth=1),
        *[record(91 + number, None, "overloaded") for number in range(5)],
        *[record(96 + number, None, "left") for number in range(4)],
    ]
    summary = summarise(records, 50.0, {"ttfm_ms": 500.0})
    figures = summary.figures
    assert set(figures) <= set(figure_names())
    assert figures["end_to_end_ms_p50"] == 145.0
    assert figures["ttft_ms_p95"] == 10.0
    assert figures["rate_per_s"] == 2.0
    assert figures["goodput_per_s"] == 90 / 50, "the slow one does not count"
    assert figures["goodput_share"] == 90 / 96
    assert figures["error_share"] == pytest.approx(5 / 96)
    assert figures["left_share"] == pytest.approx(0.04)
    assert figures["second_over_first"] == pytest.approx(900 / 144.5)
    assert figures["drift"] == pytest.approx(175 / 114.5, rel=0.02)
    assert summary.stages == {"decode": 4.0}
    assert summary.outcomes == {"ok": 91, "overloaded": 5, "left": 4}


def test_as_many_errors_as_an_objective_allows_keep_it() -> None:
    records = [record(number, 100.0, "ok" if number else "overloaded") for number in range(200)]
    [verdict] = judge(Objectives(at_most={"error_share": 0.005}), summarise(records, 50.0, {}).figures)
    assert verdict.outcome == "kept", verdict.value


def test_what_a_transport_does_not_show_is_not_held_against_it() -> None:
    assert is_good(record(0, 100.0, ttft_ms=None), {"ttft_ms": 50.0, "ttfm_ms": 100.0})
    assert not is_good(record(0, 100.1), {"ttfm_ms": 100.0})
    assert not is_good(record(0, 10.0, "deadline-exceeded"), {})


def test_a_figure_that_was_not_seen_does_not_keep_its_objective() -> None:
    objectives = Objectives(at_most={"ttft_ms_p95": 5, "error_share": 0.5}, at_least={"goodput_share": 0.9})
    verdicts = judge(objectives, {"error_share": 0.5, "goodput_share": 0.8})
    assert {verdict.figure: verdict.outcome for verdict in verdicts} == {
        "ttft_ms_p95": "missed",
        "error_share": "kept",
        "goodput_share": "missed",
    }


def test_the_servers_own_figures_are_of_the_time_between_two_readings() -> None:
    page = "\n".join(
        (
            'r2sm_cache_requests_total{{cache="embedding"}} {}',
            'r2sm_cache_hits_total{{cache="embedding",level="memory"}} {}',
            'r2sm_cache_hits_total{{cache="embedding",level="redis"}} 1',
            "# TYPE r2sm_queue_wait_seconds histogram",
            'r2sm_queue_wait_seconds_bucket{{le="+Inf"}} {}',
            "r2sm_queue_wait_seconds_count {}",
            "r2sm_queue_wait_seconds_sum {}\n",
        )
    )

    def reading(*values: float) -> Reading:
        return Reading({f"gateway {name}": value for name, value in page_sums(page.format(*values)).items()})

    assert between(reading(10, 2, 4, 4, 1.0), reading(30, 17, 8, 8, 1.2)) == {
        "cache_hits_embedding": pytest.approx(0.75),
        "queue_wait_ms": pytest.approx(50.0),
    }
    assert between(Reading({}), Reading({})) == {}


def test_a_page_that_holds_no_metrics_is_left_out_and_told() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return httpx.Response(200, text="r2sm_cache_requests_total 3\n")
        return httpx.Response(200, text="<!doctype html>\n<h1>Welcome</h1>")

    heard: list[str] = []
    reading = read_metrics("http://server", None, heard.append, httpx.MockTransport(respond))
    assert reading.sums == {"gateway r2sm_cache_requests_total": 3.0}
    assert [line.partition(":")[0] for line in heard] == [
        f"/metrics/vllm/{role} of the server holds no metrics" for role in ("reason", "concentrate")
    ]


async def test_a_server_is_found_ready_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy, ThreadPoolExecutor(1) as thread:
        thread.submit(proxy.serve_forever)
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
        try:
            with pytest.raises(ServerAway):
                await must_be_ready("http://r2sm.invalid", None)
        finally:
            proxy.shutdown()


def test_the_metrics_are_read_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"up 1\n")

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with HTTPServer(("127.0.0.1", 0), Page) as server, ThreadPoolExecutor(1) as thread:
        thread.submit(server.serve_forever)
        try:
            reading = read_metrics(f"http://127.0.0.1:{server.server_port}", None, print)
        finally:
            server.shutdown()
    assert reading.sums["gateway up"] == 1.0


def ran(folder: Path, records: list[Record], fault: str = "") -> Ran:
    plan = Plan(SCENARIOS["mixed"], Load((1.0, 2.0), 50.0), "http://127.0.0.1:1", folder, TRANSPORTS)
    return Ran(plan, records, Reading({}), Reading({}), fault)


def outcomes(report: LoadReport) -> list[list[Outcome]]:
    return [[verdict.outcome for verdict in step.verdicts] for step in report.steps]


def test_the_report_goes_where_the_readme_says() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    assert f"`--report DIR` (`{signature(loadtest).parameters['report'].default}`)" in readme


def test_a_report_holds_every_step_and_its_verdicts(tmp_path: Path) -> None:
    records = [
        record(float(number), 100.0 if number < 50 else 900.0, step=number // 50) for number in range(100)
    ]
    report = make_report(ran(tmp_path, records), Objectives(at_most={"ttfm_ms_p95": 500}))
    assert outcomes(report) == [["kept"], ["missed"]]
    assert not report.kept
    assert "MISSED ttfm_ms_p95" in as_text(report)
    page = write_report(report).read_text("utf-8")
    assert page.count("<svg") == 4
    assert "http" not in page.replace("http://127.0.0.1:1", ""), "it needs nothing from elsewhere"
    assert json.loads((tmp_path / "report.json").read_text())["complete"] is True


REASONING = Objectives(at_most={"ttft_ms_p95": 500, "ms_per_token_p50": 9, "ttfm_ms_p95": 500})


@pytest.mark.parametrize(
    ("transport", "tokens", "first", "each_token"),
    [
        ("rest", 40, "not shown", "not shown"),
        ("sse", 0, "not shown", "not shown"),
        ("ws", 1, "missed", "not shown"),
        ("ws", 40, "missed", "missed"),
    ],
)
def test_times_that_no_answer_could_show_are_left_out_and_said(
    transport: Transport, tokens: int, first: Outcome, each_token: Outcome, tmp_path: Path
) -> None:
    records = [
        record(float(number), 100.0, step=number // 50, transport=transport, reasoning_tokens=tokens)
        for number in range(100)
    ]
    records += [record(1.0, 100.0, transport="rest", reasoning_tokens=9), record(2.0, None, "left")]
    report = make_report(ran(tmp_path, records), REASONING)
    found = {verdict.figure: verdict.outcome for verdict in report.steps[0].verdicts}
    assert found == {"ttft_ms_p95": first, "ms_per_token_p50": each_token, "ttfm_ms_p95": "kept"}
    assert report.kept == ("missed" not in found.values())
    unseen = sum(each == "not shown" for each in found.values())
    page = as_page(report)
    assert as_text(report).count("not shown") == page.count(">not shown<") == 2 * unseen
    assert all(f".{name}{{" in page for name in re.findall(r"class='([^']+)'", page))
    verdicts = json.loads(write_report(report).with_suffix(".json").read_text())["steps"][0]["verdicts"]
    assert verdicts[0] == {"figure": "ttft_ms_p95", "bound": "<= 500", "value": None, "outcome": first}


def test_times_of_the_reasoning_are_missed_where_nobody_was_answered(tmp_path: Path) -> None:
    records = [record(float(number), None, "overloaded", transport="rest") for number in range(100)]
    report = make_report(ran(tmp_path, records), REASONING)
    assert outcomes(report)[0] == ["missed", "missed", "missed"]


def test_a_time_that_was_shown_is_judged_however_few_showed_it(tmp_path: Path) -> None:
    records = [record(float(number), 100.0, step=number // 50, transport="rest") for number in range(100)]
    records.append(record(1.0, 100.0, ttft_ms=900.0, reasoning_tokens=1))
    report = make_report(ran(tmp_path, records), REASONING)
    assert outcomes(report) == [["missed", "not shown", "kept"], ["not shown", "not shown", "kept"]]
    assert not report.kept


def test_a_step_without_requests_keeps_no_objective(tmp_path: Path) -> None:
    objectives = Objectives(at_most={"error_share": 0.5})
    assert not make_report(ran(tmp_path, []), objectives).kept
    half = make_report(ran(tmp_path, [record(1.0, 100.0)]), objectives)
    assert outcomes(half) == [["kept"], ["missed"]]
    assert "MISSED" in as_text(half)
    assert as_page(half)


def test_a_run_that_broke_off_is_marked_and_what_it_showed_is_kept(tmp_path: Path) -> None:
    report = make_report(
        ran(tmp_path, [record(float(second), 100.0) for second in range(31)], "<it> died"), Objectives()
    )
    assert not report.kept
    assert report.whole.figures["rate_per_s"] == pytest.approx(31 / 30), "of the time that it lasted"
    assert "Incomplete: &lt;it&gt; died" in as_page(report)
    assert "INCOMPLETE" in as_text(report)
    assert make_report(ran(tmp_path, [], "nothing came"), Objectives()).whole.figures == {}


def test_records_that_were_never_finished_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    whole = record(1.0, 2.0).model_dump_json()
    path.write_text(f"{whole}\n{whole[:20]}")
    assert read_records(path).records == [record(1.0, 2.0)]
    assert read_records(path).ending is None
    path.write_text(f"{whole}\n{Ending(fault='').model_dump_json()}\n")
    assert read_records(path).ending == Ending(fault="")
