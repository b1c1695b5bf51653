"""``r2sm build`` where there is no GPU: what is missing is named, and golden outputs can be added to a bundle."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines.bundles import Bundle
from engines.vision.golden import read_golden
from engines.vision.runtimes.cuda_driver import usable_gpus
from server.cli import app
from server.commands.build import add_golden
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.mark.skipif(usable_gpus() > 0, reason="there is a GPU here")
def test_what_is_missing_is_named(bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["build", str(bundle), "--cache-dir", str(tmp_path / "cache")])
    assert result.exit_code == 1
    missing = "TensorRT is not installed" if find_spec("tensorrt") is None else "needs an NVIDIA GPU"
    assert missing in result.output
    assert list(tmp_path.iterdir()) == []
    assert not (bundle / "vision" / "golden.safetensors").exists()


def test_golden_outputs_become_part_of_the_bundle(bundle: Path) -> None:
    before = Bundle.load(bundle)
    add_golden(before)
    after = Bundle.load(bundle)
    assert len(read_golden(after.vision_path).prompts) == 8
    assert after.answer == before.answer
    assert after.vision_digest != before.vision_digest
