"""The Job that fills the model volume: the bundle that is served stays whole, whatever happens to the next one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.k8s.overlays import all_overlays, containers

HF = """#!/bin/sh
[ "$1 $2 $3 $4" = "download me/mine --revision v2" ] || exit 9
for folder; do :; done
ls "$folder" > "$FOUND"
echo "$LOADED" > "$folder.part" && mv "$folder.part" "$folder/bundle.json"
"""
CHECK = """#!/bin/sh
grep -q whole next/bundle.json
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A volume with a bundle on it, and stand-ins for the programs that the Job calls."""
    for name, text in (("hf", HF), ("python", CHECK)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    bundle = tmp_path / "models" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "bundle.json").write_text("the first")
    return tmp_path / "models"


def download(models: Path, loaded: str) -> int:
    [overlay] = [one for one in all_overlays() if one.name == "single-gpu"]
    [container] = containers(overlay.get("Job", "r2sm-download"))
    script = container["args"][0].replace("cd /models", f"cd {models}")
    environment = {
        "PATH": f"{models.parent}:{os.environ['PATH']}",
        "BUNDLE_REPOSITORY": "me/mine",
        "BUNDLE_REVISION": "v2",
        "LOADED": loaded,
        "FOUND": str(models.parent / "found"),
    }
    return subprocess.run([*container["command"], script], env=environment, check=False).returncode


def test_a_whole_bundle_takes_the_place_of_the_former(models: Path) -> None:
    with (models / "bundle" / "bundle.json").open() as served:
        assert download(models, "a whole one") == 0
        assert served.read() == "the first", "who reads the former one goes on"
    assert (models.parent / "found").read_text() == "bundle.json\n", "what is there need not be loaded again"
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
    (models / "bundle" / "bundle.json").unlink()
    (models / "bundle").rmdir()
    assert download(models, "a whole one") == 0
    assert (models / "bundle" / "bundle.json").read_text() == "a whole one\n"
