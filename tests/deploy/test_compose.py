"""The Compose set-up: hardened, on loopback, with settings that exist, the launcher's flags, the cluster's rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from engines.allocation import KEEPING
from engines.mllm.vllm_config import Device, Role, VllmConfig, arguments, environment
from server.cli import app
from server.settings import Settings
from tests.deploy.compose import BOTH, FOLDER, VARIABLE, services
from tests.deploy.dockerfiles import ROOT

both = pytest.mark.parametrize("which", ["cpu", "gpu"])


@both
def test_every_service_is_hardened_and_watched(which: str) -> None:
    for name, service in services(which).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["user"].split(":")[0]) > 0, name
        assert "mem_limit" in service, name
        assert "healthcheck" in service or service["restart"] == "no", name
        image = service["image"]
        assert re.search(r":v?\d+\.\d+\.\d+", image), name
        assert image.startswith(("r2sm-", "vllm/")) or re.search(r"@sha256:[0-9a-f]{64}$", image), name


@both
def test_only_loopback_is_listened_on(which: str) -> None:
    published = [port for service in services(which).values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not {"redis", "gateway", "reason", "concentrate"} & {
        name
        for name, service in services(which).items()
        if "ports" in service or "outside" in service["networks"]
    }
    assert BOTH[which]["networks"]["inside"] == {"internal": True}


@both
def test_what_is_mounted_exists(which: str) -> None:
    for name, service in services(which).items():
        for volume in service.get("volumes", []):
            source = volume.rpartition(":/")[0] if volume.startswith(".") else ""
            assert not source or (FOLDER / source).exists(), (name, source)
            assert not source or volume.endswith(":ro")


def test_the_example_has_every_variable() -> None:
    example = (FOLDER / ".env.example").read_text(encoding="utf-8")
    offered = set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    asked = set(
        VARIABLE.findall((FOLDER / "compose.yaml").read_text() + (FOLDER / "compose.gpu.yaml").read_text())
    )
    assert asked == offered


@both
def test_the_gateways_variables_are_settings(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = services(which)["gateway"]["environment"]
    assert set(variables) <= {f"R2SM_{name.upper()}" for name in Settings.model_fields}
    for name, value in variables.items():
        monkeypatch.setenv(name, VARIABLE.sub("x", value).replace(":?write deploy/.env}", ""))
    settings = Settings()
    assert settings.host == "0.0.0.0"
    grace = services(which)["gateway"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > settings.shutdown_seconds


@both
@pytest.mark.parametrize("role", ["reason", "concentrate"])
def test_vllm_is_started_as_the_launcher_starts_it(which: str, role: Role) -> None:
    service = services(which)[role]
    given = dict(one.split("=", 1) if "=" in one else (one, "") for one in service["command"])
    values: dict[str, Any] = {
        "memory_share": given["--gpu-memory-utilization"],
        "max_sequences": given["--max-num-seqs"],
        "mm_cache_gib": given["--mm-processor-cache-gb"],
        "max_model_len": None if given["--max-model-len"] == "auto" else given["--max-model-len"],
        "stream_interval": given.get("--stream-interval", 8),
    }
    config = VllmConfig.model_validate(values)
    device: Device = "cpu" if which == "cpu" else "cuda"
    [module, name, *flags] = arguments(config, role, device, Path("/models/bundle/mllm"), 8000)
    expected: dict[str, str] = {}
    for flag in flags:
        if flag.startswith("--"):
            expected[flag] = ""
        else:
            expected[next(reversed(expected))] = flag
    assert service["entrypoint"] == ["python3", module, name]
    assert given == expected | {"--host": "0.0.0.0"}
    # the CPU image preloads another allocator: test_images.py
    wanted = {
        key: value for key, value in environment(config, role, device, {}).items() if key not in KEEPING
    }
    assert {key: service["environment"].get(key) for key in wanted} == wanted


def test_what_vllm_compiles_on_a_gpu_may_be_loaded_from_where_it_is_written() -> None:
    for role in ("reason", "concentrate"):
        for mount in services("gpu")[role]["tmpfs"]:
            assert "exec" in mount.partition(":")[2].split(","), f"{role}: {mount} is noexec"


@pytest.mark.parametrize("which", BOTH)
def test_what_a_service_has_work_at_stops_after_it(which: str) -> None:
    gateway, ingress = services(which)["gateway"], services(which)["ingress"]
    assert {"reason", "concentrate", "redis"} <= gateway["depends_on"].keys()
    assert "gateway" in ingress["depends_on"]
    assert seconds(ingress["stop_grace_period"]) >= seconds(gateway["stop_grace_period"])


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_the_ingress_has_room_for_every_body_that_is_let_in() -> None:
    ingress, gateway = services("cpu")["ingress"], services("cpu")["gateway"]
    settings = Settings()
    bodies = gateway["deploy"]["replicas"] * (settings.max_in_flight + settings.max_queued)
    text = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text(encoding="utf-8")
    [largest] = re.findall(r"client_max_body_size (\d+)m;", text)
    [room] = re.findall(r"size=(\d+)g", ingress["tmpfs"][0])
    assert bodies * int(largest) <= int(room) * 1024 < int(ingress["mem_limit"].removesuffix("g")) * 1024


def test_one_gpu_is_shared_by_memory() -> None:
    shares = [
        float(flag.partition("=")[2])
        for role in ("reason", "concentrate")
        for flag in services("gpu")[role]["command"]
        if flag.startswith("--gpu-memory-utilization=")
    ]
    assert sum(shares) <= 0.9
    for name in ("gateway", "reason", "concentrate"):
        [device] = services("gpu")[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


@both
def test_the_load_test_is_one_that_the_command_line_takes(which: str) -> None:
    service = services(which)["loadtest"]
    assert (service["entrypoint"], service["command"][0]) == (["r2sm"], "loadtest")
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    given = command.commands["loadtest"].make_context("loadtest", service["command"][1:]).params
    assert any(given["report"].is_relative_to(mount.split(":")[0]) for mount in service["tmpfs"])
    host, _, port = given["url"].removeprefix("http://").partition(":")
    assert services(which)[host]["ports"][0].endswith(f":{port}")
    assert set(services(which)[host]["networks"]) & set(service["networks"])


@pytest.mark.parametrize("text", [ROOT / "README.md", FOLDER / "compose.yaml"], ids=lambda path: path.name)
@both
def test_the_load_test_runs_beside_what_is_up(which: str, text: Path) -> None:
    """By the image that is there and with the files of that set-up: with fewer, Compose makes the services anew."""
    assert services(which)["loadtest"]["image"] == services(which)["gateway"]["image"]
    commands = re.findall(
        r"docker compose (-f .+) (?:up|run).* (--build|loadtest)\b", text.read_text("utf-8")
    )
    files = {"cpu": "-f deploy/compose.yaml", "gpu": "-f deploy/compose.yaml -f deploy/compose.gpu.yaml"}
    assert {(files[which], "--build"), (files[which], "loadtest")} <= set(commands)


def test_images_are_those_of_the_cluster() -> None:
    manifests = " ".join(path.read_text() for path in (ROOT / "k8s").rglob("*.yaml"))
    for name in ("redis", "gateway"):
        assert f"image: {services('cpu')[name]['image']}\n" in manifests
    assert f"image: {services('gpu')['reason']['image']}\n" in manifests


def test_redis_is_started_as_in_the_cluster() -> None:
    cluster = yaml.safe_load_all((ROOT / "k8s/components/redis/redis.yaml").read_text())
    [pod] = [item["spec"]["template"]["spec"] for item in cluster if item["kind"] == "Deployment"]
    [container] = pod["containers"]
    command = [part.replace("$$", "$") for part in services("cpu")["redis"]["command"]]
    assert command == [*container["command"], *container["args"]]


def test_prometheus_has_the_clusters_rules_and_jobs() -> None:
    rules = yaml.safe_load((FOLDER / "prometheus/rules.yml").read_text())
    cluster = yaml.safe_load((ROOT / "k8s/components/monitoring/rules.yaml").read_text())
    assert rules["groups"] == cluster["spec"]["groups"]
    config = yaml.safe_load((FOLDER / "prometheus/prometheus.yml").read_text())
    assert config["rule_files"] == ["rules.yml"]
    monitors = yaml.safe_load_all((ROOT / "k8s/components/monitoring/monitors.yaml").read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == [
        item["metadata"]["name"] for item in monitors
    ]
    for job in config["scrape_configs"]:
        asked = [one["names"][0] for one in job.get("dns_sd_configs", [])]
        asked += [target.split(":")[0] for one in job.get("static_configs", []) for target in one["targets"]]
        assert set(asked) <= set(services("cpu"))


def test_grafana_finds_its_source_and_its_dashboard() -> None:
    folder = FOLDER / "grafana/provisioning"
    [source] = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((folder / "dashboards/r2sm.yaml").read_text())["providers"]
    grafana = services("cpu")["grafana"]
    assert any(volume.split(":")[1].startswith(provider["options"]["path"]) for volume in grafana["volumes"])
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert host in services("cpu")
    assert port == services("cpu")["prometheus"]["ports"][0].rpartition(":")[2]
