"""``r2sm import``: the options, and faults told without a traceback."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from server.cli import app


def test_a_fault_is_named_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "actor").mkdir()
    paths = ["--checkpoint", str(tmp_path / "actor"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["import", "coprs", *paths, "--base", "x", "--sam", "y"])
    assert result.exit_code == 1
    assert "holds no model_world_size_W_rank_R.pt" in result.output
    assert "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["actor"]


def test_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["import", "egm", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "--sam" in result.output


def test_a_folder_without_converseg_net_is_named(tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    paths = ["--checkpoint", str(tmp_path / "published"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["import", "converseg", *paths])
    assert result.exit_code == 1
    assert "holds 0 of _sam2_….torch, and must hold one" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
