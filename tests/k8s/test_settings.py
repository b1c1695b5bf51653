"""The overlays' configuration is the programs' own: settings that exist, the launcher's vLLM flags, GPUs that fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engines.allocation import KEEPING
from engines.mllm.vllm_config import QUIET, Device, Role, VllmConfig, arguments, environment
from server.settings import Settings
from tests.k8s.overlays import (
    Object,
    Overlay,
    all_overlays,
    containers,
    every,
    gpus,
    name_of,
    without_hash,
)

ROLES: tuple[Role, Role] = ("reason", "concentrate")
VLLM = "R2SM_VLLM__"


def in_force(overlay: Overlay, container: Object, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that a gateway would have, read as it reads them; secrets are made up."""
    made_up = {"R2SM_REDIS_URL": "redis://:p@redis:6379/0"}
    for name, value in overlay.environment(container).items():
        if name.startswith("R2SM_"):
            monkeypatch.setenv(name, made_up[name] if value is None else value)
    return Settings()


def test_every_variable_of_the_gateway_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for overlay in all_overlays():
        [gateway] = containers(overlay.get("Deployment", "r2sm-gateway"))
        named = {name for name in overlay.environment(gateway) if name.startswith("R2SM_")}
        known = {f"R2SM_{field.upper()}" for field in Settings.model_fields}
        assert named <= known, (overlay.name, named - known)
        with monkeypatch.context() as patched:
            settings = in_force(overlay, gateway, patched)
        assert settings.host == "0.0.0.0"
        assert settings.default_timeout_ms / 1000 <= settings.shutdown_seconds
        writable = [mount["mountPath"] for mount in gateway["volumeMounts"] if not mount.get("readOnly")]
        assert settings.cache_dir is not None
        assert any(settings.cache_dir.is_relative_to(path) for path in writable)


def test_every_replica_of_vllm_that_there_may_be_is_named_to_the_gateway() -> None:
    for overlay in all_overlays():
        [gateway] = containers(overlay.get("Deployment", "r2sm-gateway"))
        for role in ROLES:
            most = overlay.get("StatefulSet", f"r2sm-{role}")["spec"].get("replicas", 1)
            for scaled in overlay.of("ScaledObject", "HorizontalPodAutoscaler"):
                if name_of(scaled) == f"r2sm-{role}":
                    most = scaled["spec"].get("maxReplicaCount") or scaled["spec"]["maxReplicas"]
            urls = overlay.environment(gateway)[f"R2SM_{role.upper()}_URL"] or ""
            assert urls.split(",") == [f"http://r2sm-{role}-{i}.r2sm-{role}:8000" for i in range(most)]


def vllm_config(overlay: Overlay, container: Object) -> VllmConfig:
    """The launcher's configuration with the values of the role's ConfigMap. Raises ValidationError."""
    variables = overlay.environment(container)
    values = {
        key.removeprefix(VLLM).lower(): value for key, value in variables.items() if key.startswith(VLLM)
    }
    return VllmConfig.model_validate(values)


def as_pairs(flags: list[str]) -> dict[str, str]:
    """Command line options by name; one without a value has an empty one."""
    pairs: dict[str, str] = {}
    for flag in flags:
        if flag.startswith("--"):
            name, _, value = flag.partition("=")
            pairs[name] = value
        else:
            pairs[next(reversed(pairs))] = flag
    return pairs


def roles() -> list[tuple[Overlay, Role, Object]]:
    """The vLLM containers of all overlays."""
    return [
        (overlay, role, containers(overlay.get("StatefulSet", f"r2sm-{role}"))[0])
        for overlay in all_overlays()
        for role in ROLES
    ]


def device_of(container: Object) -> Device:
    return "cpu" if "cpu" in container["image"] else "cuda"


def test_vllm_is_started_as_the_launcher_starts_it() -> None:
    for overlay, role, container in roles():
        device = device_of(container)
        config = vllm_config(overlay, container)
        model = Path("/models/bundle/mllm")
        [module, name, *ours] = arguments(config, role, device, model, 8000)
        assert container["command"][1:] == [module, name]
        given = as_pairs(overlay.arguments(container))
        assert given == as_pairs(ours) | {"--host": "0.0.0.0"}, (overlay.name, role)
        variables = overlay.environment(container)
        # the CPU image preloads another allocator: tests/deploy/test_images.py
        told = environment(config, role, device, {})
        expected = {key: value for key, value in told.items() if key not in KEEPING}
        assert {key: variables.get(key) for key in expected} == expected, (overlay.name, role)
        assert set(QUIET) <= set(variables)


def test_every_value_of_a_role_is_used() -> None:
    for overlay, _, container in roles():
        values = [key for key in overlay.environment(container) if key.startswith("R2SM_")]
        used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
        # The launcher takes GiB, vLLM bytes: the flag beside it is compared above.
        assert set(values) - {"R2SM_VLLM__KV_CACHE_GIB"} == used, overlay.name


def test_the_tensor_parallel_size_is_the_number_of_gpus() -> None:
    for overlay, role, container in roles():
        size = vllm_config(overlay, container).tensor_parallel_size
        if device_of(container) == "cuda":
            assert sum(gpus(container).values()) == size, (overlay.name, role)
            assert size & (size - 1) == 0, "attention heads come in powers of two more often than not"
        else:
            assert not gpus(container)


def test_a_gateway_has_a_gpu_or_a_part_of_one_where_its_image_is_made_for_that() -> None:
    for overlay in all_overlays():
        [gateway] = containers(overlay.get("Deployment", "r2sm-gateway"))
        made_for_it = gateway["image"].endswith("-cuda")
        assert sum(gpus(gateway).values()) == (1 if made_for_it else 0), overlay.name


def test_those_who_share_a_gpu_leave_some_of_it() -> None:
    shared = "nvidia.com/gpu.shared"
    for overlay in all_overlays():
        shares = [
            vllm_config(overlay, container).memory_share or 1.0
            for one, _, container in roles()
            if one is overlay and shared in gpus(container)
        ]
        if shares:
            [gateway] = containers(overlay.get("Deployment", "r2sm-gateway"))
            assert shared in gpus(gateway), "the vision engine is the third"
            assert sum(shares) <= 0.9, overlay.name


def test_every_role_has_shared_memory_and_can_write_its_caches() -> None:
    for overlay, _, container in roles():
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/dev/shm", "/tmp", "/scratch"} <= mounts
        assert overlay.environment(container)["HOME"] == "/scratch"


def test_redis_keeps_nothing_and_stays_within_its_pod() -> None:
    for overlay, config in every("ConfigMap"):
        if without_hash(name_of(config)) != "r2sm-redis":
            continue
        lines = config["data"]["redis.conf"].splitlines()
        assert {'save ""', "appendonly no", "maxmemory-policy allkeys-lru"} <= set(lines)
        [memory] = [
            int(line.split()[1].removesuffix("gb")) for line in lines if line.startswith("maxmemory ")
        ]
        [redis] = containers(overlay.get("Deployment", "r2sm-redis"))
        assert memory < int(redis["resources"]["limits"]["memory"].removesuffix("Gi"))
