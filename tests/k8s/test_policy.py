"""What a cluster's keeper would ask of every workload: probes, limits, security, disruption, drains, ports, secrets."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from engines.mllm.role import HEALTH_SECONDS
from engines.mllm.routing.fitness import RoutingLimits
from server.schemas.request import MAX_TIMEOUT_MS
from tests.k8s.overlays import (
    ROOT,
    WORKLOADS,
    Object,
    Overlay,
    all_overlays,
    containers,
    every,
    name_of,
    template,
    without_hash,
)

SERVING = ("Deployment", "StatefulSet")
SECRETS = {"r2sm-redis", "r2sm-api-keys", "r2sm-hub", "r2sm-tls"}
"""All that there are; k8s/README.md says what is in each."""
NAMES_SECONDS = 30
"""How long Kubernetes' own settings for CoreDNS let a cluster remember a name that is gone."""


def labels_of(workload: Object) -> dict[str, str]:
    found: dict[str, str] = template(workload)["metadata"]["labels"]
    return found


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector takes a pod."""
    plain = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    expressions = selector.get("matchExpressions", [])
    return plain and all(labels.get(one["key"]) in one["values"] for one in expressions)


def test_every_container_has_its_limits_and_its_root_is_read_only() -> None:
    for overlay, workload in every(*WORKLOADS):
        for container in containers(workload):
            where = (overlay.name, name_of(workload))
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), where
            assert {"cpu", "memory"} <= set(resources["limits"]), where
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, where
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where


def test_every_pod_is_restricted_and_has_no_token() -> None:
    for overlay, workload in every(*WORKLOADS):
        where = (overlay.name, name_of(workload))
        spec = template(workload)["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, where
        assert security["runAsUser"] >= 100, where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert spec["automountServiceAccountToken"] is False, where
        account = overlay.get("ServiceAccount", spec["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False, where
        overlay.get("PriorityClass", spec["priorityClassName"])
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), where
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}, where
        assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume), (
            where
        )
    for overlay in all_overlays():
        [namespace] = overlay.of("Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_server_is_probed_and_has_time_to_start() -> None:
    for overlay, workload in every(*SERVING):
        for container in containers(workload):
            where = (overlay.name, name_of(workload))
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), where
            patience = (
                container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
            )
            assert patience >= {"vllm": 1200, "gateway": 300}.get(container["name"], 10), where


def test_a_rollout_waits_as_long_as_a_start_may_take() -> None:
    for overlay, workload in every("Deployment"):
        if name_of(workload) != "r2sm-gateway":
            continue
        [container] = containers(workload)
        probe = container["startupProbe"]
        patience = probe["periodSeconds"] * probe["failureThreshold"]
        assert workload["spec"]["progressDeadlineSeconds"] > patience, overlay.name


def test_nobody_is_woken_where_servers_sleep_by_themselves() -> None:
    asleep = {overlay.name for overlay, item in every("ScaledObject") if item["spec"]["minReplicaCount"] == 0}
    assert asleep
    for overlay, rules in every("PrometheusRule"):
        alerts = [rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"]]
        assert ("R2smVllmDown" in alerts) is (overlay.name not in asleep), overlay.name


def test_every_server_may_be_disrupted_one_at_a_time() -> None:
    for overlay, workload in every(*SERVING):
        budgets = [
            budget
            for budget in overlay.of("PodDisruptionBudget")
            if matches(budget["spec"]["selector"], labels_of(workload))
        ]
        assert len(budgets) == 1, (overlay.name, name_of(workload))
        assert budgets[0]["spec"]["maxUnavailable"] == 1


def test_replicas_are_spread() -> None:
    """Over hosts; the gateway, which needs no GPU, over zones too."""
    for overlay, workload in every(*SERVING):
        if name_of(workload) == "r2sm-redis":
            continue
        spread = template(workload)["spec"]["topologySpreadConstraints"]
        wide = {"kubernetes.io/hostname"}
        if name_of(workload) == "r2sm-gateway":
            wide |= {"topology.kubernetes.io/zone"}
        assert {one["topologyKey"] for one in spread} == wide, (overlay.name, name_of(workload))
        assert all(matches(one["labelSelector"], labels_of(workload)) for one in spread), overlay.name


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


def test_what_refers_to_a_map_a_secret_or_a_volume_finds_it() -> None:
    for overlay, workload in every(*WORKLOADS):
        spec = template(workload)["spec"]
        maps = [
            source["configMapRef"]["name"]
            for one in containers(workload)
            for source in one.get("envFrom", [])
        ]
        maps += [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
        for name in maps:
            assert overlay.data(name)
        claims = [
            volume["persistentVolumeClaim"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume
        ]
        assert all(overlay.get("PersistentVolumeClaim", claim["claimName"]) for claim in claims)
        mounted = [mount["name"] for one in containers(workload) for mount in one["volumeMounts"]]
        assert set(mounted) == {volume["name"] for volume in spec["volumes"]}, (
            overlay.name,
            name_of(workload),
        )


def claims_of(workload: Object) -> set[str]:
    """The volumes that outlast a workload's pods, by name."""
    volumes = template(workload)["spec"]["volumes"]
    return {one["persistentVolumeClaim"]["claimName"] for one in volumes if "persistentVolumeClaim" in one}


def fills_for_one_node() -> list[tuple[Overlay, Object, list[Object]]]:
    """The Jobs that fill a volume which only one node can have, each with the servers that read it."""
    return [
        (overlay, job, [item for item in overlay.of(*SERVING) if name_of(claim) in claims_of(item)])
        for overlay, claim in every("PersistentVolumeClaim")
        if "ReadWriteMany" not in claim["spec"]["accessModes"]
        for job in overlay.of("Job")
        if name_of(claim) in claims_of(job)
    ]


def test_a_volume_for_one_node_is_filled_where_it_is_read() -> None:
    fills = fills_for_one_node()
    assert "single-gpu" in [overlay.name for overlay, _, _ in fills]
    for overlay, job, readers in fills:
        affinity = template(job)["spec"]["affinity"]["podAffinity"]
        [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname", overlay.name
        near = [item for item in overlay.of(*WORKLOADS) if matches(term["labelSelector"], labels_of(item))]
        assert near == readers, "any other pod, the Job's own too, may be on any node"


def test_those_who_read_a_volume_for_one_node_are_placed_before_it_is_filled() -> None:
    for overlay, _, readers in fills_for_one_node():
        for reader in readers:
            assert not {"affinity", "initContainers"} & set(template(reader)["spec"]), overlay.name


def test_who_fills_a_volume_on_a_gpus_node_tolerates_its_taints() -> None:
    for overlay, job, readers in fills_for_one_node():
        asked = {key for item in readers for one in containers(item) for key in one["resources"]["limits"]}
        taints = {"nvidia.com/gpu", *(key for key in asked if key.startswith("nvidia.com/"))}
        tolerated = {
            one["key"] for one in template(job)["spec"]["tolerations"] if one["operator"] == "Exists"
        }
        assert taints <= tolerated, overlay.name


def test_secrets_are_only_referred_to_and_are_known() -> None:
    for overlay in all_overlays():
        made = {name_of(item) for item in overlay.of("Secret")}
        for workload in overlay.of(*WORKLOADS):
            spec = template(workload)["spec"]
            sources = [
                one["valueFrom"]["secretKeyRef"]
                for container in containers(workload)
                for one in container.get("env", [])
                if "valueFrom" in one
            ]
            names = {one["name"] for one in sources if not one.get("optional")}
            names |= {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
            assert names <= made, (overlay.name, name_of(workload))
            every_name = names | {one["name"] for one in sources}
            assert {without_hash(name) for name in every_name} <= SECRETS
        for item in overlay.of("ConfigMap"):
            secret = re.compile(r"password|secret|token|api_keys$", re.IGNORECASE)
            assert not [key for key in item["data"] if secret.search(key)], name_of(item)


def test_no_image_floats() -> None:
    for overlay, workload in every(*WORKLOADS):
        for container in containers(workload):
            image = container["image"]
            _, _, tag = image.partition("@")[0].rpartition(":")
            assert re.search(r"\d+\.\d+", tag), f"{overlay.name}: {image} has no exact version"
            assert image.count("/") < 2, f"{image} names a registry"


def test_no_bundle_floats() -> None:
    """Or whoever applies something else might change the weights below servers that run."""
    for overlay, job in every("Job"):
        [container] = containers(job)
        revision = overlay.environment(container)["BUNDLE_REVISION"] or ""
        assert re.fullmatch("[0-9a-f]{40}|your-commit", revision), f"{overlay.name}: {revision} is no commit"


def test_a_job_that_is_done_stays_until_it_is_deleted() -> None:
    """One that went by itself would run again with the next apply; one that changed could not be applied."""
    manual = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.+) \|$", manual, re.MULTILINE))
    for overlay, job in every("Job"):
        assert "ttlSecondsAfterFinished" not in job["spec"], overlay.name
        command = f"`kubectl -n r2sm delete job {name_of(job)} --ignore-not-found`"
        for row in ("upgrade", "change the bundle"):
            assert "apply" in rows[row].partition(command)[2], row


def test_a_leaving_pod_outlasts_the_longest_request() -> None:
    longest = MAX_TIMEOUT_MS / 1000
    for overlay, workload in every(*SERVING):
        [container] = containers(workload)
        grace = template(workload)["spec"]["terminationGracePeriodSeconds"]
        match container["name"]:
            case "gateway":
                pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
                draining = int(overlay.environment(container)["R2SM_SHUTDOWN_SECONDS"] or 0)
                assert pause >= 10
                assert draining >= longest
                assert grace > pause + draining
            case "vllm":
                _, _, _, at_least, at_most = container["lifecycle"]["preStop"]["exec"]["command"]
                assert float(at_least) >= NAMES_SECONDS + until_gateways_notice()
                assert float(at_most) >= float(at_least) + longest
                assert grace > float(at_most)


def until_gateways_notice() -> float:
    """Seconds until enough probes in a row have failed; each may take its time to connect and to read."""
    limits = RoutingLimits()
    return limits.failures * (limits.probe_every + 2 * HEALTH_SECONDS)


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


ROUTED = {("Prefix", "/v1"), ("Exact", "/readyz"), ("Exact", "/livez")}
"""What clients ask, and by what load test and evaluation see that it is there; figures are for the inside."""


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
