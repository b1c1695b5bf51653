"""``r2sm export``: graphs are written whole or not at all, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines.vision.onnx_cache import GRAPH_FILES
from server.cli import app
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_bundle(tmp_path_factory.mktemp("bundle"))


def export(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_graphs_are_written_once(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "graphs"
    code, output = export(bundle, "--out", out, "--window-positions", "added")
    assert code == 0
    assert {file.name for file in out.iterdir()} == set(GRAPH_FILES)
    assert all(name in output for name in GRAPH_FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["graphs"], "nothing unfinished is left"

    code, output = export(bundle, "--out", out)
    assert code == 1
    assert "exists already" in output


def test_weights_that_do_not_fit_are_named(bundle: Path, tmp_path: Path) -> None:
    config = bundle / "vision" / "config.json"
    content = config.read_text()
    config.write_text(content.replace('"mlp_dim": 64', '"mlp_dim": 80'))
    try:
        code, output = export(bundle, "--out", tmp_path / "graphs")
    finally:
        config.write_text(content)
    assert code == 1
    assert "config.json" in output
    assert list(tmp_path.iterdir()) == []
