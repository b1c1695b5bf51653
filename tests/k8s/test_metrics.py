"""Alerts, dashboard and autoscaling ask for metrics that a running gateway and a running vLLM export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from server.errors import BY_ERROR, NOT_READY
from server.telemetry.metrics import SECONDS, Metrics
from tests.k8s.overlays import ROOT, every, name_of
from tests.server.conftest import OpenGateway, open_gateway, runtime
from tests.server.telemetry.reading import scrape

if TYPE_CHECKING:
    from prometheus_client import Metric

    from tests.vllm_fixture import ServedModel

__all__ = ["open_gateway", "runtime"]

MONITORING = ROOT / "k8s" / "components" / "monitoring"
HPA = ROOT / "k8s" / "components" / "hpa"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
SCRAPED = {"job", "instance", "namespace", "pod", "le"}
"""Labels that every series gets where it is scraped, and a histogram's own."""


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Every query, and where it stands."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in json.loads((MONITORING / "r2sm.json").read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for overlay, item in every("ScaledObject"):
        for trigger in item["spec"]["triggers"]:
            yield f"{overlay.name} {name_of(item)}", trigger["metadata"]["query"]


def selectors() -> list[tuple[str, Any]]:
    """The series that the queries select, each with where; parsing refuses what Prometheus would refuse."""
    promql = pytest.importorskip("promql_parser", reason="promql-parser is not installed")
    found: list[tuple[str, Any]] = []
    for where, text in expressions():
        try:
            parsed = promql.parse(text)
        except ValueError as error:
            raise AssertionError(f"{where}: {error}: {text}") from error
        here: list[Any] = []
        promql.walk(parsed, lambda node, here=here: here.append(node))
        series = [node for node in here if isinstance(node, promql.VectorSelector)]
        series += [node.vector_selector for node in here if isinstance(node, promql.MatrixSelector)]
        assert series, f"{where} asks for nothing: {text}"
        found += [(where, one) for one in series]
    return found


def exported(families: dict[str, Metric]) -> set[str]:
    """The names of the series that a page of metrics stands for."""
    return {f"{one.name}{suffix}" for one in families.values() for suffix in SUFFIXES.get(one.type, ())}


async def test_a_running_gateway_exports_what_is_asked_for(open_gateway: OpenGateway) -> None:
    async with open_gateway() as gateway:
        names = exported(await scrape(gateway.client))
    asked = {(where, one.name) for where, one in selectors() if one.name.startswith("r2sm_")}
    assert len(asked) > 20
    assert not [pair for pair in asked if pair[1] not in names]
    assert all(one.name == "up" or one.name.startswith(("r2sm_", "vllm:")) for _, one in selectors())


def test_labels_and_their_values_exist() -> None:
    listed = {one.name: set(one.labels) for one in Metrics().listed}
    slugs = {kind.slug for kind in (*BY_ERROR.values(), NOT_READY)}
    buckets = {str(limit) for limit in SECONDS}
    for where, one in selectors():
        if not one.name.startswith("r2sm_"):
            continue
        base = one.name if one.name in listed else one.name.rpartition("_")[0]
        for matcher in one.matchers.matchers:
            assert matcher.name in listed[base] | SCRAPED, (where, matcher.name)
            if matcher.name == "outcome":
                assert set(matcher.value.split("|")) <= slugs, where
            if matcher.name == "le":
                assert matcher.value in buckets, where


def test_jobs_are_those_that_are_scraped() -> None:
    jobs = {name_of(item) for _, item in every("ServiceMonitor")}
    named = [
        matcher.value for _, one in selectors() for matcher in one.matchers.matchers if matcher.name == "job"
    ]
    assert named
    for value in named:
        prefix, _, rest = value.partition("(")
        choices = rest.rstrip(")").split("|") if rest else [""]
        assert {f"{prefix}{choice}" for choice in choices} <= jobs


@pytest.mark.vllm
async def test_both_running_vllm_servers_export_what_is_asked_for(served_model: ServedModel) -> None:
    asked = {one.name for _, one in selectors() if one.name.startswith("vllm:")}
    assert len(asked) > 3
    for url in (served_model.reason_url, served_model.concentrate_url):
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            missing = asked - exported(await scrape(client))
        assert not missing, url


def test_plain_autoscalers_ask_for_what_the_adapter_makes() -> None:
    adapter = yaml.safe_load((HPA / "adapter-rules.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    made = {rule["name"]["as"]: rule["seriesQuery"].partition("{")[0] for rule in adapter}
    known = {one.name for _, one in selectors()}
    assert set(made.values()) <= known
    for item in yaml.safe_load_all((HPA / "autoscalers.yaml").read_text(encoding="utf-8")):
        pods = [
            metric["pods"]["metric"]["name"] for metric in item["spec"]["metrics"] if metric["type"] == "Pods"
        ]
        assert pods
        assert set(pods) <= set(made)


def test_every_alert_says_what_it_asks_for_and_is_in_the_manual() -> None:
    manual = (ROOT / "README.md").read_text(encoding="utf-8")
    for rule in rules():
        assert {"summary", "action"} <= set(rule["annotations"]), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert f"| `{rule['alert']}` |" in manual, rule["alert"]


def test_scaling_does_not_flap() -> None:
    for overlay, item in every("ScaledObject"):
        spec = item["spec"]
        behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        down, up = behaviour["scaleDown"], behaviour["scaleUp"]
        where = (overlay.name, name_of(item))
        assert down["stabilizationWindowSeconds"] >= 300 > up["stabilizationWindowSeconds"], where
        assert spec["cooldownPeriod"] >= 300, where
        assert spec["minReplicaCount"] <= spec["maxReplicaCount"], where
        target = overlay.get(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
        assert target["apiVersion"] == spec["scaleTargetRef"]["apiVersion"]
        assert "replicas" not in target["spec"], "the next apply would put its number back"
        assert spec["fallback"]["replicas"] >= 1


def test_what_may_be_zero_is_woken_by_arrivals_at_a_gateway_that_can_be_reached() -> None:
    slept = [
        (overlay, item) for overlay, item in every("ScaledObject") if not item["spec"]["minReplicaCount"]
    ]
    assert {name_of(item) for _, item in slept} == {"r2sm-reason", "r2sm-concentrate"}
    for overlay, item in slept:
        queries = [trigger["metadata"] for trigger in item["spec"]["triggers"]]
        assert any("r2sm_requests_total" in one["query"] and "activationThreshold" in one for one in queries)
        gateway = overlay.get("Deployment", "r2sm-gateway")["spec"]["template"]["spec"]["containers"][0]
        assert gateway["readinessProbe"]["httpGet"]["path"] == "/livez"
        [scaled] = [one for one in overlay.of("ScaledObject") if name_of(one) == "r2sm-gateway"]
        assert scaled["spec"]["minReplicaCount"] >= 1
