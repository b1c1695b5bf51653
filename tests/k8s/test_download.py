"""The Job that fills the model volume: when and where it runs; the bundle that is served stays whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engines.bundles import Bundle
from engines.bundles.manifest import renew_manifest
from tests.k8s.overlays import (
    ROOT,
    SERVING,
    SHIPPED,
    WORKLOADS,
    Object,
    Overlay,
    all_overlays,
    containers,
    every,
    gpus,
    labels_of,
    matches,
    name_of,
    template,
)
from tests.tiny_bundle import build_tiny_bundle

HF = """#!/bin/sh
[ "$1 $2 $3 $4" = "download me/mine --revision v2" ] || exit 9
for folder; do :; done
ls "$folder" > "$FOUND"
echo "$LOADED" > "$folder.part" && mv "$folder.part" "$folder/bundle.json"
"""
CHECK = """#!/bin/sh
grep -q whole next/bundle.json
"""
HUB = """#!/bin/sh
for folder; do :; done
cp -R --remove-destination "$HUB/$4/." "$folder"
"""
"""Loads a revision as hf does it: every file in the place of the former one, none taken away."""
PYTHON = f"""#!/bin/sh
PYTHONPATH={ROOT} exec {sys.executable} "$@"
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A volume with a bundle on it, and stand-ins for the programs that the Job calls."""
    write_programs(tmp_path, hf=HF, python=CHECK)
    bundle = tmp_path / "models" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "bundle.json").write_text("the first")
    (bundle / "weights").write_text("the first's")
    return tmp_path / "models"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """The revisions of a bundle: `more`, and `fewer` that lacks one of its files. The Job's Python is a real one."""
    write_programs(tmp_path, hf=HUB, python=PYTHON)
    (tmp_path / "models").mkdir()
    fewer = build_tiny_bundle(tmp_path / "hub" / "fewer")
    more = Path(shutil.copytree(fewer, tmp_path / "hub" / "more"))
    (more / "mllm" / "more.json").write_text("{}")
    renew_manifest(more)
    return tmp_path / "hub"


def write_programs(folder: Path, **programs: str) -> None:
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def download(models: Path, loaded: str) -> int:
    return run_job(models, "v2", LOADED=loaded, FOUND=str(models.parent / "found")).returncode


def download_revision(hub: Path, revision: str) -> subprocess.CompletedProcess[str]:
    return run_job(hub.parent / "models", revision, HUB=str(hub))


def run_job(models: Path, revision: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the Job's script on a volume; the programs beside that are those that it calls."""
    [overlay] = [one for one in all_overlays() if one.name == "single-gpu"]
    [container] = containers(overlay.get("Job", "r2sm-download"))
    script = container["args"][0].replace("cd /models", f"cd {models}")
    environment = {
        "PATH": f"{models.parent}:{os.environ['PATH']}",
        "BUNDLE_REPOSITORY": "me/mine",
        "BUNDLE_REVISION": revision,
        **variables,
    }
    command = [*container["command"], script]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)


def test_a_whole_bundle_takes_the_place_of_the_former(models: Path) -> None:
    with (models / "bundle" / "bundle.json").open() as served:
        assert download(models, "a whole one") == 0
        assert served.read() == "the first", "who reads the former one goes on"
    assert (models.parent / "found").read_text() == "weights\n", "what is there need not be loaded again"
    assert (models / "bundle" / "bundle.json").read_text() == "a whole one\n"
    assert [path.name for path in models.iterdir()] == ["bundle"]


def test_a_volume_without_hard_links_will_do(models: Path) -> None:
    (models.parent / "cp").write_text("#!/bin/sh\nmkdir copy; touch copy/half; exit 1\n")
    (models.parent / "cp").chmod(0o755)
    assert download(models, "a whole one") == 0
    assert (models.parent / "found").read_text() == "", "nothing half copied is taken for whole"
    assert (models / "bundle" / "bundle.json").read_text() == "a whole one\n"


def test_a_broken_bundle_is_not_served(models: Path) -> None:
    assert download(models, "half of one") != 0
    assert (models / "bundle" / "bundle.json").read_text() == "the first"
    assert download(models, "a whole one") == 0, "it may be tried again"
    assert (models / "bundle" / "bundle.json").read_text() == "a whole one\n"


def test_the_first_bundle_needs_none_before_it(models: Path) -> None:
    shutil.rmtree(models / "bundle")
    assert download(models, "a whole one") == 0
    assert (models / "bundle" / "bundle.json").read_text() == "a whole one\n"


def test_a_revision_with_fewer_files_is_loaded_and_so_is_the_way_back(hub: Path) -> None:
    bundle = hub.parent / "models" / "bundle"
    for revision in ("more", "fewer", "more"):
        done = download_revision(hub, revision)
        assert (done.returncode, done.stderr) == (0, ""), revision
        assert Bundle.load(bundle).name == "tiny"
        assert (bundle / "mllm" / "more.json").exists() is (revision == "more")


def test_what_a_broken_revision_lacks_stays_in_the_bundle_that_is_served(hub: Path) -> None:
    assert download_revision(hub, "more").returncode == 0
    (hub / "fewer" / "vision" / "config.json").write_text("{}")
    done = download_revision(hub, "fewer")
    assert done.returncode != 0
    assert "vision/config.json: its digest is" in done.stderr
    bundle = hub.parent / "models" / "bundle"
    assert (bundle / "mllm" / "more.json").exists()
    assert Bundle.load(bundle).name == "tiny"
    assert download_revision(hub, "more").returncode == 0, (
        "what was taken away from the next one is loaded again"
    )


@pytest.mark.parametrize(
    ("manifest", "fault"),
    [(None, "cannot be read: No such file or directory"), ("{", "content: Invalid JSON")],
)
def test_a_revision_whose_manifest_cannot_be_read_is_not_served(
    hub: Path, manifest: str | None, fault: str
) -> None:
    assert download_revision(hub, "more").returncode == 0
    (hub / "fewer" / "bundle.json").unlink()
    if manifest is not None:
        (hub / "fewer" / "bundle.json").write_text(manifest)
    done = download_revision(hub, "fewer")
    assert done.returncode != 0
    assert done.stderr.startswith(f"next/bundle.json: {fault}"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert Bundle.load(hub.parent / "models" / "bundle").name == "tiny"


def test_an_overlay_that_was_not_filled_in_is_told_so(hub: Path) -> None:
    for overlay, job in every("Job"):
        if overlay.name not in SHIPPED:
            continue
        shipped = overlay.environment(containers(job)[0])
        for name in ("BUNDLE_REPOSITORY", "BUNDLE_REVISION"):
            done = run_job(hub.parent / "models", "fewer", **{"HUB": str(hub), name: shipped[name] or ""})
            assert done.returncode != 0
            assert done.stderr.startswith("the overlay must name the bundle: ")
            assert f"{name} is {shipped[name]}" in done.stderr
            assert list((hub.parent / "models").iterdir()) == []


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
        taints = {
            "nvidia.com/gpu",
            *(key for item in readers for one in containers(item) for key in gpus(one)),
        }
        tolerated = {
            one["key"] for one in template(job)["spec"]["tolerations"] if one["operator"] == "Exists"
        }
        assert taints <= tolerated, overlay.name


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


def test_an_attempt_that_failed_stays_with_its_log() -> None:
    """A pod that is started again would be deleted after the last attempt, and its log with it."""
    manual = (ROOT / "k8s" / "README.md").read_text(encoding="utf-8")
    for overlay, job in every("Job"):
        assert template(job)["spec"]["restartPolicy"] == "Never", overlay.name
        assert job["spec"]["backoffLimit"] > 0, "it is tried again"
        label = "app.kubernetes.io/name"
        assert f"`kubectl -n r2sm logs -l {label}={labels_of(job)[label]} --prefix`" in manual
