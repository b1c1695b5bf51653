"""Metrics of a gateway on a scripted language model, read as Prometheus reads them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from server.telemetry.backends import CacheMetrics, server_label
from server.telemetry.metrics import SECONDS, Metrics
from server.telemetry.pages import is_local
from tests.engines.mllm.scripted_server import Exchange, scripted_server
from tests.server.asgi import connect
from tests.server.asking import as_json, as_multipart, post
from tests.server.conftest import Gateway, OpenGateway
from tests.server.telemetry.reading import scrape, value

ROOT = Path(__file__).parents[3]
SEGMENT, BATCH, SOCKET = "/v1/segment", "/v1/segment/batch", "/v1/segment/stream"


async def test_what_a_request_leaves_behind(gateway: Gateway) -> None:
    before = await scrape(gateway.client)
    assert value(before, "r2sm_requests_total", route=SEGMENT) == 0, "the warm-up is no request"
    assert value(before, "r2sm_stage_seconds_count", stage="reason") == 0
    assert value(before, "r2sm_batch_size_count", stage="encode") == 1, "but its batches have run"
    for request in (as_json(mask_type="both"), as_multipart(mask_type="modal")):
        assert (await post(gateway, request)).status_code == 200
    families = await scrape(gateway.client)
    assert value(families, "r2sm_requests_total", route=SEGMENT, outcome="ok", key="") == 2
    assert value(families, "r2sm_request_seconds_count", route=SEGMENT) == 2
    assert value(families, "r2sm_requests_in_flight") == 0, "the scrape itself is none"
    assert {sample.labels["route"] for sample in families["r2sm_requests"].samples} == {SEGMENT}
    for name in ("queue_wait", "ttft", "ttfm"):
        assert value(families, f"r2sm_{name}_seconds_count") == 2
    for stage in ("image", "encode", "reason", "decide", "warm", "concentrate", "decode", "finish"):
        assert value(families, "r2sm_stage_seconds_count", stage=stage) == 2
    assert value(families, "r2sm_batch_size_sum", stage="decode") == 2 + 2 + 1, "the warm-up's, both, modal"
    assert value(families, "r2sm_decisions_total", mask_type="amodal", source="model") == 1
    assert value(families, "r2sm_decisions_total", mask_type="modal", source="request") == 1
    assert value(families, "r2sm_masks_total", mask_type="modal") == 2
    assert value(families, "r2sm_reasoning_tokens_total") == 2 * len(gateway.mllm.words)
    assert value(families, "r2sm_prompt_tokens_total") == 2 * 20
    assert value(families, "r2sm_build_info", model="tiny", vision="torch") == 1
    assert value(families, "process_resident_memory_bytes") > 0


@pytest.mark.parametrize(
    ("failing", "body", "outcome"),
    [
        (set(), {"prompt": ""}, "invalid-request"),
        (set(), {"image": b"no image"}, "image-not-an-image"),
        ({"decide"}, {}, "model-unavailable"),
        (set(), {"timeout_ms": 1}, "deadline-exceeded"),
    ],
)
async def test_outcomes_are_the_problems_slugs(
    gateway: Gateway, failing: set[str], body: dict[str, object], outcome: str
) -> None:
    gateway.mllm.failing = failing
    await post(gateway, as_json(**body))  # type: ignore[arg-type]
    families = await scrape(gateway.client)
    assert value(families, "r2sm_requests_total", route=SEGMENT, outcome=outcome) == 1


async def test_a_fault_of_the_gateways_own(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.routes.segment.read_upload", lambda *_: 1 / 0)
    response = await post(gateway, as_json())
    assert response.status_code == 500
    assert response.headers["x-request-id"] == response.json()["request_id"]
    families = await scrape(gateway.client)
    assert value(families, "r2sm_requests_total", route=SEGMENT, outcome="internal") == 1


async def test_unknown_paths_make_no_labels(gateway: Gateway) -> None:
    for number in range(20):
        await gateway.client.get(f"/nowhere/{number}")
        await gateway.client.request(f"VERB{number}", "/v1/segment")
    families = await scrape(gateway.client)
    routes = {sample.labels["route"] for sample in families["r2sm_requests"].samples}
    assert routes == {"elsewhere", SEGMENT}
    assert value(families, "r2sm_requests_total", route="elsewhere", outcome="not-found") == 20


async def test_a_stream_that_fails_or_is_left_counts_as_such(gateway: Gateway) -> None:
    gateway.mllm.failing = {"concentrate"}
    stream = {"headers": {"accept": "text/event-stream"}}
    assert "event: error" in (await post(gateway, as_json() | stream)).text
    gateway.mllm.failing, gateway.mllm.hanging = set(), {"reason"}
    asked = asyncio.create_task(post(gateway, as_json() | stream))
    await gateway.mllm.reached.wait()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    gateway.mllm.hanging = set()
    assert (await post(gateway, as_json() | stream)).status_code == 200
    families = await scrape(gateway.client)
    for outcome in ("model-unavailable", "cancelled", "ok"):
        assert value(families, "r2sm_requests_total", route=SEGMENT, outcome=outcome) == 1


async def test_a_batch_is_one_request_whatever_becomes_of_its_prompts(gateway: Gateway) -> None:
    gateway.mllm.failing_prompts = {"b"}
    body = as_json()["json"]
    await gateway.client.post(
        BATCH, json={"image": body["image"], "requests": [{"prompt": "a"}, {"prompt": "b"}]}
    )
    families = await scrape(gateway.client)
    assert value(families, "r2sm_requests_total", route=BATCH, outcome="ok") == 1
    assert value(families, "r2sm_decisions_total", mask_type="amodal", source="model") == 1


async def test_a_websockets_requests_count_one_by_one(gateway: Gateway) -> None:
    async with connect(gateway.app) as socket:
        image = as_json()["json"]["image"]
        socket.say(type="segment", id="a", prompt="mug", image=image)
        while (await socket.hear())["type"] != "done":
            pass
        gateway.mllm.hanging = {"reason"}
        socket.say(type="segment", id="b", prompt="mug", image=image)
        await gateway.mllm.reached.wait()
        families = await scrape(gateway.client)
        assert value(families, "r2sm_sockets_open") == 1
        assert value(families, "r2sm_requests_in_flight") == 1
        socket.say(type="cancel", id="b")
        while (await socket.hear())["type"] != "error":
            pass
    families = await scrape(gateway.client)
    for outcome in ("ok", "cancelled"):
        assert value(families, "r2sm_requests_total", route=SOCKET, outcome=outcome) == 1


async def test_names_units_and_buckets_are_as_prometheus_wants_them(gateway: Gateway) -> None:
    await post(gateway, as_json())
    for name, family in (await scrape(gateway.client)).items():
        if not name.startswith("r2sm_"):
            continue
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|mib|percent)(_|$)", name), "base units only"
        assert not re.search(r"_(count|sum|bucket|total|info)$", name) or name == "r2sm_build_info"
        assert name not in family.type
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels <= {"route", "outcome", "key", "stage", "le", "mask_type", "source", "cache", "level",
                          "kind", "breaker", "role", "server", "version", "model", "vision"}  # fmt: skip
        if family.type == "histogram" and name.endswith("_seconds"):
            bounds = {sample.labels["le"] for sample in family.samples if "le" in sample.labels}
            assert bounds <= {*map(str, SECONDS), "+Inf"}
    assert (SECONDS[0], SECONDS[-1]) == (0.01, 60.0)


async def test_openmetrics_where_it_is_asked_for(gateway: Gateway) -> None:
    response = await gateway.client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def test_the_readmes_table_is_the_registrys() -> None:
    metrics = Metrics()
    assert metrics.table() in (ROOT / "README.md").read_text()
    registered = {family.name for family in metrics.registry.collect() if family.name.startswith("r2sm_")}
    assert {one.name.removesuffix("_total") for one in metrics.listed} == registered


def test_caches_and_their_breaker() -> None:
    metrics = Metrics()
    caches = CacheMetrics(metrics)
    caches.hit("embedding", "redis")
    caches.joined("embedding")
    caches.miss("embedding")
    caches.bad_value("embedding")
    caches.trouble("timeout")
    caches.breaker("all", "half_open")
    sample = metrics.registry.get_sample_value
    assert sample("r2sm_cache_requests_total", {"cache": "embedding"}) == 3
    assert sample("r2sm_cache_hits_total", {"cache": "embedding", "level": "redis"}) == 1
    assert sample("r2sm_cache_bad_values_total", {"cache": "embedding"}) == 1
    assert sample("r2sm_redis_errors_total", {"kind": "timeout"}) == 1
    assert sample("r2sm_redis_breaker_state", {"breaker": "all"}) == 1


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("http://127.0.0.1:8100", "127.0.0.1:8100"),
        ("https://user:secret@gpu-3/vllm", "gpu-3"),
        ("http://[::1]:81", "[::1]:81"),
    ],
)
def test_a_servers_label_is_its_address_and_nothing_secret(url: str, label: str) -> None:
    assert server_label(url) == label


async def test_metrics_for_this_machine_only(open_gateway: OpenGateway) -> None:
    async with open_gateway(metrics="local") as gateway:
        assert (await gateway.client.get("/metrics")).status_code == 200, (
            "the transport's address is 127.0.0.1"
        )
        for headers in ({"x-forwarded-for": "127.0.0.1"}, {"forwarded": "for=::1"}):
            refused = await gateway.client.get("/metrics", headers=headers)
            assert (refused.status_code, refused.json()["type"]) == (403, "urn:r2sm:problem:only-local")
        transport = httpx.ASGITransport(gateway.app, client=("192.0.2.7", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as elsewhere:
            assert (await elsewhere.get("/metrics")).status_code == 403
            assert (await elsewhere.get("/metrics/vllm/reason")).status_code == 403


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.9", True), ("::1", True), ("10.0.0.1", False), (None, False), ("x", False)],
)
def test_what_this_machine_is(address: str | None, local: bool) -> None:
    assert is_local(address, {}) is local


async def test_no_vllm_page_without_a_server_of_our_own(gateway: Gateway) -> None:
    for role in ("reason", "concentrate", "x" * 500):
        response = await gateway.client.get(f"/metrics/vllm/{role}")
        assert (response.status_code, response.json()["type"]) == (404, "urn:r2sm:problem:not-found")


async def test_the_vllm_servers_that_were_started_here_can_be_read(open_gateway: OpenGateway) -> None:
    """Their own words, or 503 when they do not come or do not end."""

    async def page(exchange: Exchange) -> None:
        assert exchange.path == "/metrics"
        await exchange.respond(b"vllm:num_requests_running 0\n")

    async def endless(exchange: Exchange) -> None:
        with suppress(ConnectionError):
            while True:
                await exchange.stream("x" * 100_000)

    async with scripted_server(page) as good, scripted_server(endless) as bad:
        launched = {"reason": good.url, "concentrate": bad.url}
        async with open_gateway(launched=launched) as gateway:
            read = await gateway.client.get("/metrics/vllm/reason")
            assert (read.status_code, read.text) == (200, "vllm:num_requests_running 0\n")
            refused = await gateway.client.get("/metrics/vllm/concentrate")
            assert (refused.status_code, refused.json()["type"]) == (
                503,
                "urn:r2sm:problem:model-unavailable",
            )


WORKER = """
import sys
from server.telemetry.metrics import Metrics
metrics = Metrics()
metrics.requests.labels("/v1/segment", "ok", "").inc(3)
metrics.in_flight.inc(2)
metrics.request_seconds.labels("/v1/segment").observe(0.2)
if "leave" in sys.argv:
    metrics.close()
else:
    print(metrics.page("")[0].decode())
"""


def test_several_processes_answer_for_all_of_them(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def work(*arguments: str) -> str:
        command = [sys.executable, "-c", WORKER, *arguments]
        return subprocess.run(
            command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout

    work("leave")
    page = work()
    assert 'r2sm_requests_total{key="",outcome="ok",route="/v1/segment"} 6.0' in page
    assert 'r2sm_request_seconds_count{route="/v1/segment"} 2.0' in page
    assert "r2sm_requests_in_flight 2.0" in page, "the process that left took its gauges along"
