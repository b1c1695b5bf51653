"""What can be known of the images without building them."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from server.routes import health
from tests.deploy.dockerfiles import DOCKERFILES, ROOT, all_of, copied, stages, variables, words

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
each = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)


def test_both_images_are_there() -> None:
    assert [path.stem for path in DOCKERFILES] == ["gateway", "vllm-cpu"]


@each
def test_bases_are_exact_and_the_last_stage_is_its_own(path: Path) -> None:
    built = stages(path)
    assert len(built) >= 2
    for stage in built:
        image = all_of(stage, "FROM")[0].split()[0]
        assert re.fullmatch(r"[a-z]+:\d+\.\d+\.\d+-\S+@sha256:[0-9a-f]{64}", image), image


@each
def test_the_last_stage_builds_nothing_and_is_nobodys_root(path: Path) -> None:
    last = stages(path)[-1]
    [user] = all_of(last, "USER")
    assert int(user.split(":")[0]) >= 1000
    ran = " ".join(all_of(last, "RUN"))
    assert not re.search(r"\bpip\b|\bgcc\b|build-essential|\bcurl\b|\bgit\b", ran)
    assert all_of(last, "COPY")[0].startswith("--from=build")
    assert "pip uninstall --yes pip" in " ".join(all_of(stages(path)[0], "RUN"))


@each
def test_what_is_copied_exists_and_reaches_the_builder(path: Path) -> None:
    allowed = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    ]
    for stage in stages(path):
        for source in copied(stage):
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, one) or source.startswith(f"{one}/") for one in allowed), (
                source
            )


@each
def test_it_starts_something_that_exists_and_says_whether_it_is_well(path: Path) -> None:
    last = stages(path)[-1]
    entry = words(all_of(last, "ENTRYPOINT")[0])
    [check] = all_of(last, "HEALTHCHECK")
    command = words(check.partition("CMD ")[2])
    [port] = all_of(last, "EXPOSE")
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", command[-1])
    assert asked is not None
    assert asked[1] == port
    if path.stem == "gateway":
        assert entry == ["r2sm"]
        assert "r2sm" in PROJECT["scripts"]
        assert variables(last)["R2SM_PORT"] == port
        routes = {route.path for route in health.router.routes if isinstance(route, APIRoute)}
        assert asked[2] in routes
    else:
        assert entry[-1] == "vllm.entrypoints.openai.api_server"
        assert asked[2] == "/health"


@each
def test_labels_tell_what_is_inside(path: Path) -> None:
    last = stages(path)[-1]
    labels = dict(re.findall(r'([\w.]+)="([^"]*)"', " ".join(all_of(last, "LABEL"))))
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}licenses"] == PROJECT["license"]
    base = all_of(last, "FROM")[0].split()[0]
    assert f"{labels[f'{prefix}base.name']}@{labels[f'{prefix}base.digest']}" == base
    assert {f"{prefix}{name}" for name in ("title", "description", "version", "revision")} <= set(labels)
    assert f"VERSION={PROJECT['version']}" in all_of(last, "ARG")


def test_versions_are_the_projects() -> None:
    wanted = {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]}
    for path in DOCKERFILES:
        ran = " ".join(rest for stage in stages(path) for rest in all_of(stage, "RUN"))
        pinned = re.findall(r"[\w-]+==[\w.+]+", ran)
        assert pinned
        assert set(pinned) <= wanted, set(pinned) - wanted


def test_the_gateways_image_has_what_its_commands_need() -> None:
    [path] = [path for path in DOCKERFILES if path.stem == "gateway"]
    [extras] = re.findall(r'"\.\[([\w,]+)\]"', " ".join(all_of(stages(path)[0], "RUN")))
    assert set(extras.split(",")) == {"tracing", "loadtests"}
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_only_the_demo_bundle_is_baked_in() -> None:
    for path in DOCKERFILES:
        for stage in stages(path):
            heavy = [
                file.relative_to(ROOT).as_posix()
                for source in copied(stage)
                for file in (ROOT / source).rglob("*.safetensors")
            ]
            assert all(file.startswith("engines/demo/bundle/") for file in heavy)


def test_vllms_image_keeps_freed_memory_by_an_allocator_of_its_own() -> None:
    """So it needs none of `engines.allocation.KEEPING`, which the launcher's own servers are given."""
    [path] = [path for path in DOCKERFILES if path.stem == "vllm-cpu"]
    last = stages(path)[-1]
    assert variables(last)["LD_PRELOAD"] == "libtcmalloc_minimal.so.4"
    assert "libtcmalloc-minimal4" in all_of(last, "RUN")[0].split()
