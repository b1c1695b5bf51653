"""Who reaches whom: Services and their pods, ports, ingress and route, what the network policies let through."""

from __future__ import annotations

import re

import pytest
import yaml

from server.schemas.request import MAX_TIMEOUT_MS
from tests.k8s.overlays import (
    ROOT,
    SERVING,
    WORKLOADS,
    Object,
    Overlay,
    all_overlays,
    containers,
    every,
    labels_of,
    matches,
    name_of,
    without_hash,
)

ROUTED = {("Prefix", "/v1"), ("Exact", "/readyz"), ("Exact", "/livez")}
"""What clients ask, and by what load test and evaluation see that it is there; figures are for the inside."""


def test_selectors_find_their_pods_and_no_others() -> None:
    for overlay in all_overlays():
        pods = {name_of(item): labels_of(item) for item in overlay.of(*WORKLOADS)}
        for item in overlay.of(*SERVING):
            assert [name for name, labels in pods.items() if matches(item["spec"]["selector"], labels)] == [
                name_of(item)
            ]
        for service in overlay.of("Service"):
            selector = {"matchLabels": service["spec"]["selector"]}
            assert [name for name, labels in pods.items() if matches(selector, labels)] == [name_of(service)]
        for monitor in overlay.of("ServiceMonitor"):
            found = [
                service
                for service in overlay.of("Service")
                if matches(monitor["spec"]["selector"], service["metadata"].get("labels", {}))
            ]
            assert [name_of(service) for service in found] == [name_of(monitor)]
            named = {port["name"] for port in found[0]["spec"]["ports"]}
            assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= named


def test_ports_are_named_and_are_those_that_the_process_listens_on() -> None:
    for overlay, workload in every(*SERVING):
        for container in containers(workload):
            [port] = container["ports"]
            assert listens_on(overlay, container) == port["containerPort"], (overlay.name, name_of(workload))
            service = overlay.get("Service", name_of(workload))
            [outside] = service["spec"]["ports"]
            assert outside["targetPort"] == outside["name"] == port["name"]
            assert outside["port"] == port["containerPort"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = container[probe].get("httpGet") or container[probe].get("tcpSocket")
                assert asked is None or asked["port"] == port["name"]


def listens_on(overlay: Overlay, container: Object) -> int:
    """The port that a container's process is told to listen on."""
    match container["name"]:
        case "gateway":
            return int(overlay.environment(container)["R2SM_PORT"] or 0)
        case "vllm":
            [port] = [one for one in overlay.arguments(container) if one.startswith("--port=")]
            assert container["lifecycle"]["preStop"]["exec"]["command"][2] == port.removeprefix("--port=")
            return int(port.removeprefix("--port="))
        case "redis":
            [config] = [one for one in overlay.of("ConfigMap") if without_hash(name_of(one)) == "r2sm-redis"]
            found = re.search(r"^port (\d+)$", config["data"]["redis.conf"], re.MULTILINE)
            assert found is not None
            return int(found[1])
        case other:
            raise AssertionError(f"nobody knows where {other} listens")


def test_a_leaving_pods_name_is_gone_before_it_is() -> None:
    """As that is what tells the gateways; a Service that balances would hide it."""
    for overlay, workload in every("StatefulSet"):
        service = overlay.get("Service", workload["spec"]["serviceName"])["spec"]
        assert service["clusterIP"] == "None"
        assert not service.get("publishNotReadyAddresses", False)


def test_the_ingress_waits_longer_than_the_longest_request() -> None:
    for _, ingress in every("Ingress"):
        notes = ingress["metadata"]["annotations"]
        prefix = "nginx.ingress.kubernetes.io/proxy"
        assert int(notes[f"{prefix}-read-timeout"]) > MAX_TIMEOUT_MS / 1000
        assert int(notes[f"{prefix}-send-timeout"]) > MAX_TIMEOUT_MS / 1000
        assert notes[f"{prefix}-buffering"] == "off"


def test_a_route_waits_longer_than_the_longest_request_and_for_ever_on_a_socket() -> None:
    route = yaml.safe_load((ROOT / "k8s/components/gateway-api/route.yaml").read_text(encoding="utf-8"))
    waits = {
        rule["matches"][0]["path"]["value"]: float(rule["timeouts"]["request"].removesuffix("s"))
        for rule in route["spec"]["rules"]
    }
    assert waits.pop("/v1/segment/stream") == 0, "0 s is no limit"
    assert waits
    assert all(seconds > MAX_TIMEOUT_MS / 1000 for seconds in waits.values())


def test_the_ingress_routes_what_clients_ask_and_nothing_else() -> None:
    for overlay, ingress in every("Ingress"):
        for rule in ingress["spec"]["rules"]:
            paths = rule["http"]["paths"]
            assert {(path["pathType"], path["path"]) for path in paths} == ROUTED, overlay.name
            for path in paths:
                service = path["backend"]["service"]
                ports = overlay.get("Service", service["name"])["spec"]["ports"]
                assert service["port"]["name"] in [port["name"] for port in ports], overlay.name


def test_a_route_takes_what_the_ingress_takes() -> None:
    route = yaml.safe_load((ROOT / "k8s/components/gateway-api/route.yaml").read_text(encoding="utf-8"))
    matched = {
        (match["path"]["type"].removeprefix("Path"), match["path"]["value"])
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    }
    assert matched - {("Prefix", "/v1/segment/stream")} == ROUTED


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_nothing_is_let_through_that_is_not_named(direction: str) -> None:
    for overlay in all_overlays():
        everybody = [
            item["spec"] for item in overlay.of("NetworkPolicy") if item["spec"]["podSelector"] == {}
        ]
        assert everybody == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}], overlay.name
        sides = {"ingress": "from", "egress": "to"}
        open_to_all = [
            name_of(item)
            for item in overlay.of("NetworkPolicy")
            for rule in item["spec"].get(direction, [])
            if not rule.get(sides[direction])
        ]
        assert set(open_to_all) <= {"r2sm-download"}, "only the download may talk to the world"


def test_the_paths_of_a_request_are_open() -> None:
    """Who must reach whom is let out and let in, on the port that is listened on."""
    for overlay in all_overlays():
        pods = {name_of(item): labels_of(item) for item in overlay.of(*SERVING)}
        for server, port in (("r2sm-reason", 8000), ("r2sm-concentrate", 8000)):
            assert reaches(overlay, pods["r2sm-gateway"], pods[server], port), (overlay.name, server)
        if "r2sm-redis" in pods:
            assert reaches(overlay, pods["r2sm-gateway"], pods["r2sm-redis"], 6379), overlay.name
            assert not reaches(overlay, pods["r2sm-reason"], pods["r2sm-redis"], 6379), overlay.name


@pytest.mark.parametrize(
    ("label", "servers"),
    [
        ("r2sm.io/ingress", {"r2sm-gateway"}),
        ("r2sm.io/monitoring", {"r2sm-gateway", "r2sm-reason", "r2sm-concentrate"}),
    ],
)
def test_other_namespaces_reach_what_is_theirs_and_nothing_else(label: str, servers: set[str]) -> None:
    for overlay in all_overlays():
        pods = {name_of(item): labels_of(item) for item in overlay.of(*WORKLOADS)}
        reached = {
            name
            for name, labels in pods.items()
            for item in overlay.of("NetworkPolicy")
            if matches(item["spec"]["podSelector"], labels)
            for rule in item["spec"].get("ingress", [])
            if {"namespaceSelector": {"matchLabels": {label: "true"}}} in rule["from"]
            and rule["ports"] == [{"port": "http"}]
        }
        assert reached == servers, overlay.name


def test_the_gateway_can_look_names_up() -> None:
    for overlay in all_overlays():
        gateway = labels_of(overlay.get("Deployment", "r2sm-gateway"))
        names = [
            rule["ports"]
            for item in overlay.of("NetworkPolicy")
            if matches(item["spec"]["podSelector"], gateway)
            for rule in item["spec"].get("egress", [])
            if any(peer.get("podSelector") == {"matchLabels": {"k8s-app": "kube-dns"}} for peer in rule["to"])
        ]
        assert names == [[{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]], overlay.name


def reaches(overlay: Overlay, client: dict[str, str], server: dict[str, str], port: int) -> bool:
    """Whether pods with these labels may talk: some policy lets the one out and some policy lets the other in."""
    names = {"http": 8000, "redis": 6379}

    def allowed(direction: str, side: str, own: dict[str, str], other: dict[str, str]) -> bool:
        rules = [
            rule
            for item in overlay.of("NetworkPolicy")
            if matches(item["spec"]["podSelector"], own)
            for rule in item["spec"].get(direction, [])
        ]
        return any(
            port in [names.get(one["port"], one["port"]) for one in rule["ports"]]
            and any(
                "namespaceSelector" not in peer and matches(peer.get("podSelector", {}), other)
                for peer in rule.get(side, [])
            )
            for rule in rules
        )

    return allowed("egress", "to", client, server) and allowed("ingress", "from", server, client)
