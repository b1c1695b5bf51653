"""The set-up script, run as it stands in small projects of its own; installing the real one is `make .venv`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
PROJECT = """
[project]
name = "small"
version = "0"
[project.optional-dependencies]
cpu = ["torch==99.0+cpu"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose torch nobody has."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "deploy").mkdir()
    for name in ("setup_venv.py", "torchvision_ops.py", "constraints-cpu.txt", "constraints-gpu.txt"):
        shutil.copy(DEPLOY / name, tmp_path / "deploy")
    return tmp_path


@pytest.fixture
def script(project: Path) -> ModuleType:
    """The project's set-up script as a module."""
    spec = importlib.util.spec_from_file_location("setup_venv", project / "deploy" / "setup_venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_torch_that_nobody_has_is_named_with_both_ways_out(project: Path) -> None:
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project)}
    result = subprocess.run(
        [sys.executable, project / "deploy" / "setup_venv.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    for word in ("torch==99.0+cpu", "PIP_FIND_LINKS", "R2SM_TORCH_INDEX"):
        assert word in result.stderr
    assert not (project / ".venv" / "installed.sha256").exists()


def test_a_second_run_with_nothing_changed_does_nothing(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.PYTHON.parent.mkdir(parents=True)
    script.PYTHON.symlink_to(sys.executable)
    script.STAMP.write_text(script.digest("cpu"))
    monkeypatch.setattr(sys, "argv", ["setup_venv.py"])
    monkeypatch.setattr(script, "run", lambda *_, **__: pytest.fail("a process was started"))
    script.main()


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "deploy/constraints-cpu.txt", "deploy/torchvision_ops.py"]
)
def test_a_change_of_what_is_installed_is_noticed(script: ModuleType, project: Path, name: str) -> None:
    before = script.digest("cpu")
    with (project / name).open("a") as file:
        file.write("\n")
    assert script.digest("cpu") != before


def test_an_environment_for_the_other_extra_is_made_anew(script: ModuleType) -> None:
    script.make_venv("cpu")
    left = script.VENV / "left-by-the-cpu-build"
    left.touch()
    script.make_venv("cpu")
    assert left.exists(), "one for the same extra is used again"
    script.make_venv("gpu")
    assert not left.exists()


def test_the_extras_differ(script: ModuleType) -> None:
    assert len({script.digest("cpu"), script.digest("gpu")}) == 2


def test_an_environment_that_was_moved_is_not_at_home(script: ModuleType, project: Path) -> None:
    assert not script.at_home()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    assert script.at_home()
    activate = project / ".venv" / "bin" / "activate"
    activate.write_text(activate.read_text().replace(str(project), "/elsewhere"))
    assert not script.at_home()
