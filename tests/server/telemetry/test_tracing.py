"""Traces: a span for each stage, below the caller's, through to vLLM; nothing imported while they are off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from engines.mllm.answer import AnswerFormat
from engines.mllm.client import MllmClient
from engines.mllm.grammar import SpecialTokens
from engines.mllm.image import Bitmap, MllmImage
from server.telemetry.record import Record
from server.telemetry.spans import NoSpans, open_spans, tracing_wanted
from server.telemetry.telemetry import Telemetry
from tests.engines.mllm.scripted_client import NAMES, embeddings, replies
from tests.engines.mllm.scripted_server import scripted_server
from tests.server.asgi import connect
from tests.server.asking import as_json, post
from tests.server.conftest import Gateway, OpenGateway

pytest.importorskip("opentelemetry.sdk", reason="the extra `tracing` is not installed")
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # after the check
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server.telemetry.otel import OtelSpans

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
STAGES = {
    "admission", "load image", "encode", "reason", "decide", "warm", "foresee", "concentrate", "decode", "finish",
}  # fmt: skip


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def telemetry(exporter: InMemorySpanExporter) -> Telemetry:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Telemetry(OtelSpans(provider))


@pytest.fixture
async def traced(
    open_gateway: OpenGateway, telemetry: Telemetry, exporter: InMemorySpanExporter
) -> AsyncIterator[Gateway]:
    async with open_gateway(telemetry=telemetry) as gateway:
        exporter.clear()  # the warm-up's
        yield gateway


def children(spans: Sequence[ReadableSpan], parent: ReadableSpan) -> set[str]:
    assert parent.context is not None
    return {
        span.name
        for span in spans
        if span.parent is not None and span.parent.span_id == parent.context.span_id
    }


def named(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    [span] = [span for span in spans if span.name == name]
    return span


async def test_one_span_a_stage_below_the_callers(traced: Gateway, exporter: InMemorySpanExporter) -> None:
    response = await post(traced, as_json() | {"headers": {"traceparent": TRACEPARENT, "x-request-id": "r1"}})
    spans = exporter.get_finished_spans()
    request = named(spans, "POST /v1/segment")
    assert children(spans, request) == STAGES
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context is not None} == {TRACE}
    assert dict(request.attributes or {}) == {
        "r2sm.request_id": "r1", "r2sm.outcome": "ok", "http.response.status_code": 200,
    }  # fmt: skip
    assert request.context is not None
    assert response.headers["traceparent"] == f"00-{TRACE}-{request.context.span_id:016x}-01"


async def test_stages_lie_within_their_request(traced: Gateway, exporter: InMemorySpanExporter) -> None:
    await post(traced, as_json())
    spans = exporter.get_finished_spans()
    request = named(spans, "POST /v1/segment")
    assert request.start_time is not None
    assert request.end_time is not None
    for span in spans:
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time <= request.end_time
        slack = 1_000_000  # the wait for a turn is measured on another clock
        assert span.start_time >= request.start_time - slack


@pytest.mark.parametrize("given", ["", "00-xyz", f"00-{'0' * 32}-{PARENT}-01", "x" * 4000])
async def test_a_traceparent_that_is_none_begins_a_trace(
    traced: Gateway, exporter: InMemorySpanExporter, given: str
) -> None:
    assert (await post(traced, as_json() | {"headers": {"traceparent": given}})).status_code == 200
    assert named(exporter.get_finished_spans(), "POST /v1/segment").parent is None


async def test_whoever_watches_leaves_no_trace(traced: Gateway, exporter: InMemorySpanExporter) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        response = await traced.client.get(path, headers={"traceparent": TRACEPARENT})
        assert "traceparent" not in response.headers
    assert exporter.get_finished_spans() == ()


async def test_a_request_that_fails_ends_its_spans(traced: Gateway, exporter: InMemorySpanExporter) -> None:
    traced.mllm.failing = {"concentrate"}
    assert (await post(traced, as_json())).status_code == 503
    spans = exporter.get_finished_spans()
    assert not named(spans, "concentrate").status.is_ok
    assert (named(spans, "POST /v1/segment").attributes or {})["r2sm.outcome"] == "model-unavailable"


async def test_a_websockets_requests_are_spans_of_its_connection(
    traced: Gateway, exporter: InMemorySpanExporter
) -> None:
    async with connect(traced.app) as socket:
        socket.say(type="segment", id="a", prompt="mug", image=as_json()["json"]["image"])
        await socket.hear_until_end("a")
        socket.leave()
        await socket.peer.ended()
    spans = exporter.get_finished_spans()
    outer, inner = sorted(
        (span for span in spans if span.name == "WS /v1/segment/stream"),
        key=lambda span: span.parent is not None,
    )
    assert children(spans, inner) == STAGES
    assert children(spans, outer) == {"WS /v1/segment/stream"}


async def test_calls_to_vllm_carry_the_trace_of_their_stage(
    telemetry: Telemetry, exporter: InMemorySpanExporter
) -> None:
    tokens = SpecialTokens({name: number for number, name in enumerate(NAMES)})
    async with scripted_server(replies(embeddings([1.0]), embeddings([1.0]))) as server:
        urls = (server.url,)
        async with MllmClient(AnswerFormat(), tokens, urls, urls, observer=telemetry.servers) as client:
            image = MllmImage("sha256:a", Bitmap("data:image/bmp;base64,AAAA"), 28, 28)
            await client.warm(image, "mug", timeout=5)
            with (
                telemetry.serving(Record("r1", "POST"), {"traceparent": TRACEPARENT}),
                telemetry.pipeline.stage("warm"),
            ):
                await client.warm(image, "mug", timeout=5)
    untraced, traced = (exchange.headers.get("traceparent") for exchange in server.seen)
    assert untraced is None
    stage = named(exporter.get_finished_spans(), "warm")
    assert stage.context is not None
    assert traced == f"00-{TRACE}-{stage.context.span_id:016x}-01"


async def test_logs_name_the_trace(telemetry: Telemetry) -> None:
    record = Record("r1", "POST")
    with telemetry.serving(record, {"traceparent": TRACEPARENT}):
        assert record.trace == TRACE


@pytest.mark.parametrize(
    ("setting", "endpoint", "wanted"),
    [(None, "", False), (None, "http://x:4318", True), (True, "", True), (False, "http://x:4318", False)],
)
def test_off_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, setting: bool | None, endpoint: str, wanted: bool
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert tracing_wanted(setting) is wanted
    assert isinstance(open_spans(False), NoSpans)


def test_while_it_is_off_no_exporter_is_imported() -> None:
    check = (
        "import sys, server.app, server.running, server.telemetry.spans as spans\n"
        "spans.open_spans(False)\n"
        "sys.exit(any(name.startswith('opentelemetry.exporter') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 0


def test_a_tracer_that_nobody_listens_to_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter is real, its collector is away."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    spans = open_spans(True)
    with spans.request("GET", {}):
        pass
    spans.close()
