"""What a cluster's keeper would ask of every workload: probes, limits, security, disruption, drains, secrets."""

from __future__ import annotations

import re

from engines.mllm.role import HEALTH_SECONDS
from engines.mllm.routing.fitness import RoutingLimits
from server.schemas.request import MAX_TIMEOUT_MS
from tests.k8s.overlays import (
    SERVING,
    WORKLOADS,
    all_overlays,
    containers,
    every,
    gpus,
    labels_of,
    matches,
    name_of,
    template,
    without_hash,
)

SECRETS = {"r2sm-redis", "r2sm-api-keys", "r2sm-hub", "r2sm-tls"}
"""All that there are; k8s/README.md says what is in each."""
NAMES_SECONDS = 30
"""How long Kubernetes' own settings for CoreDNS let a cluster remember a name that is gone."""


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


def test_servers_with_a_gpu_and_no_others_tolerate_the_taint_of_its_node() -> None:
    """Whatever part of one they ask for: the node is tainted as a whole."""
    for overlay, workload in every(*SERVING):
        asks = any(gpus(container) for container in containers(workload))
        tolerated = [
            one
            for one in template(workload)["spec"].get("tolerations", [])
            if one.get("key") == "nvidia.com/gpu"
        ]
        assert bool(tolerated) is asks, (overlay.name, name_of(workload))
        assert all(one["operator"] == "Exists" for one in tolerated), overlay.name
        assert all(one.get("effect", "NoSchedule") == "NoSchedule" for one in tolerated), overlay.name


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
