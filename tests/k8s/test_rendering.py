"""Every overlay renders, every object is one that the API server would take, and what is missing is named."""

from __future__ import annotations

import copy
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

from tests.k8s.custom_resources import MODELS
from tests.k8s.overlays import (
    SHIPPED,
    CannotRender,
    Object,
    all_overlays,
    copy_with_secrets,
    every,
    name_of,
    render,
)

VERSIONS = ("1.30", "1.35")
"""The oldest Kubernetes that has all that is used (a pod's preStop pause), and a new one."""


def check(item: Object, version: str) -> None:
    """Raises ValidationError, of pydantic or of kubernetes_validate."""
    model = MODELS.get(item["kind"])
    if model is not None:
        model.model_validate(item)
    else:
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_passes_its_schema(version: str) -> None:
    for overlay in all_overlays():
        assert len(overlay.objects) > 30
        for item in overlay.objects:
            check(item, version)


@pytest.mark.parametrize("component", ["hpa", "gateway-api"])
def test_the_components_that_no_overlay_uses_pass_too(component: str, tmp_path: Path) -> None:
    folder = copy_with_secrets(tmp_path)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "r2sm",
        "resources": ["../../base"],
        "components": [f"../../components/{component}"],
    }
    own = folder / "overlays" / "own"
    own.mkdir()
    (own / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    objects = render(own)
    assert {"hpa": "HorizontalPodAutoscaler", "gateway-api": "HTTPRoute"}[component] in {
        item["kind"] for item in objects
    }
    for item in objects:
        check(item, VERSIONS[-1])


def test_the_checks_would_find_a_mistyped_field() -> None:
    for kind, path in (("Deployment", ("spec", "template", "spec")), ("ScaledObject", ("spec",))):
        _, item = next(every(kind))
        broken = copy.deepcopy(item)
        inner = broken
        for step in path:
            inner = inner[step]
        inner["terminationGracePeriod"] = 5
        with pytest.raises(
            (ValidationError, kubernetes_validate.ValidationError), match="terminationGracePeriod"
        ):
            check(broken, VERSIONS[-1])


@pytest.mark.parametrize("overlay", SHIPPED)
@pytest.mark.parametrize("missing", ["secrets.env", "api-keys"])
def test_an_overlay_without_its_secret_does_not_render_and_names_it(
    overlay: str, missing: str, tmp_path: Path
) -> None:
    folder = copy_with_secrets(tmp_path)
    (folder / "overlays" / overlay / missing).unlink()
    with pytest.raises(CannotRender, match=missing):
        render(folder / "overlays" / overlay)


def test_nothing_is_named_twice_and_all_is_in_the_namespace() -> None:
    cluster_wide = {"Namespace", "PriorityClass"}
    for overlay in all_overlays():
        names = [(item["kind"], name_of(item)) for item in overlay.objects]
        assert len(names) == len(set(names))
        for item in overlay.objects:
            namespace = item["metadata"].get("namespace")
            assert (namespace is None) == (item["kind"] in cluster_wide), (item["kind"], name_of(item))
