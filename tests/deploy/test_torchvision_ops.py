"""The hook that lets torchvision be imported, tried on a package that registers fakes as torchvision does."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
HOOK = "import torchvision_ops; torchvision_ops.install(); "
PACKAGE = """
import torch
@torch.library.register_fake("torchvision::nms")
def fake_nms(dets, scores, iou_threshold):
    return dets
"""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Import paths with a torchvision that misses its compiled library, and the real torch."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    return [tmp_path, DEPLOY, Path(sysconfig.get_path("purelib"))]


def python(code: str, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    """Run code without the .pth files of the environment, which may hold the hook already."""
    environment = {"PYTHONPATH": ":".join(map(str, paths))}
    return subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_torchvision_imports_only_with_the_hook(paths: list[Path]) -> None:
    without = python("import torchvision", paths)
    assert "operator torchvision::nms does not exist" in without.stderr
    result = python(HOOK + "import torchvision; print(torchvision.fake_nms.__name__)", paths)
    assert (result.stdout, result.stderr) == ("fake_nms\n", "")


def test_a_start_that_needs_no_torchvision_loads_no_torch(paths: list[Path]) -> None:
    look = "import sys, importlib.util; print(importlib.util.find_spec('torchvision').name, 'torch' in sys.modules)"
    assert python(HOOK + look, paths).stdout == "torchvision False\n"


def test_a_missing_torchvision_stays_missing(paths: list[Path]) -> None:
    result = python(HOOK + "import torchvision", [DEPLOY])
    assert "No module named 'torchvision'" in result.stderr
