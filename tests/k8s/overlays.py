"""Renders the overlays with ``kubectl kustomize``, without a cluster, and gives access to what came out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SHIPPED = ("cpu-demo", "single-gpu", "multi-gpu")
Object = dict[str, Any]
SERVING = ("Deployment", "StatefulSet")
WORKLOADS = (*SERVING, "Job")
_REFERENCE = re.compile(r"\$\(([A-Za-z0-9_]+)\)")


class CannotRender(Exception):
    """Kustomize refused; its words."""


def render(folder: Path) -> list[Object]:
    """All objects of a kustomization. Skips the test where there is no kubectl. Raises CannotRender."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: the overlays cannot be rendered")
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], check=False, capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0:
        raise CannotRender(done.stderr)
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def copy_with_secrets(target: Path) -> Path:
    """A copy of ``k8s`` in which every overlay has the secret files that its user would write."""
    copy = target / "k8s"
    shutil.copytree(ROOT / "k8s", copy)
    for overlay in (copy / "overlays").iterdir():
        (overlay / "secrets.env").write_text("password=p\nurl=redis://:p@r2sm-redis:6379/0\n")
        (overlay / "api-keys").write_text(f"test:{64 * 'a'}\n")
    return copy


@dataclass(frozen=True, slots=True)
class Overlay:
    """A rendered overlay."""

    name: str
    objects: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        """The objects of these kinds."""
        return [item for item in self.objects if item["kind"] in kinds]

    def get(self, kind: str, name: str) -> Object:
        """One object. A generated name is found without its hash."""
        found = [
            item for item in self.of(kind) if without_hash(name_of(item)) == name or name_of(item) == name
        ]
        assert len(found) == 1, f"{self.name} has {len(found)} of {kind} {name}"
        return found[0]

    def data(self, name: str) -> dict[str, str]:
        """What a ConfigMap holds, by the name that a pod calls it by."""
        [found] = [item for item in self.of("ConfigMap") if name_of(item) == name]
        data: dict[str, str] = found["data"]
        return data

    def environment(self, container: Object) -> dict[str, str | None]:
        """A container's variables; None for those that come from a Secret."""
        variables: dict[str, str | None] = {}
        for source in container.get("envFrom", []):
            variables |= self.data(source["configMapRef"]["name"])
        return variables | {one["name"]: one.get("value") for one in container.get("env", [])}

    def arguments(self, container: Object) -> list[str]:
        """A container's arguments with ``$(VARIABLE)`` put in, as the kubelet does."""
        known = self.environment(container)

        def value(match: re.Match[str]) -> str:
            found = known.get(match[1])
            assert found is not None, f"{self.name}: {container['name']} has no variable {match[1]}"
            return found

        return [_REFERENCE.sub(value, argument) for argument in container.get("args", [])]


def name_of(item: Object) -> str:
    """An object's name."""
    name: str = item["metadata"]["name"]
    return name


def without_hash(name: str) -> str:
    """The name that a generated ConfigMap or Secret was given before Kustomize added its hash."""
    return re.sub(r"-[0-9a-z]{10}$", "", name)


def template(workload: Object) -> Object:
    """A workload's pod template."""
    found: Object = workload["spec"]["template"]
    return found


def containers(workload: Object) -> list[Object]:
    """A workload's containers, those that only initialise included."""
    spec = template(workload)["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def gpus(container: Object) -> dict[str, int]:
    """The GPUs, or parts of one, that a container asks for."""
    resources = container["resources"]
    asked = {key: int(value) for key, value in resources["limits"].items() if key.startswith("nvidia.com/")}
    assert all(resources["requests"].get(key) == str(value) for key, value in asked.items())
    return asked


def labels_of(workload: Object) -> dict[str, str]:
    """The labels of a workload's pods."""
    found: dict[str, str] = template(workload)["metadata"]["labels"]
    return found


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector takes a pod."""
    plain = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    expressions = selector.get("matchExpressions", [])
    return plain and all(labels.get(one["key"]) in one["values"] for one in expressions)


@cache
def all_overlays() -> tuple[Overlay, ...]:
    """The shipped overlays, and those that R2SM_OVERLAYS names (folders, apart by colons) for a check of one's own."""
    with TemporaryDirectory() as folder:
        copy = copy_with_secrets(Path(folder))
        shipped = [Overlay(name, tuple(render(copy / "overlays" / name))) for name in SHIPPED]
    own = [Path(path) for path in os.environ.get("R2SM_OVERLAYS", "").split(":") if path]
    return (*shipped, *(Overlay(path.name, tuple(render(path))) for path in own))


def every(*kinds: str) -> Iterator[tuple[Overlay, Object]]:
    """Every object of these kinds in every overlay, with its overlay."""
    for overlay in all_overlays():
        for item in overlay.of(*kinds):
            yield overlay, item
