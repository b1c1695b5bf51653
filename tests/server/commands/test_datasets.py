"""``r2sm datasets check`` on data sets whole and broken."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from server.cli import app
from tests.engines.evaluation import layouts


def test_a_whole_data_set_is_told(tmp_path: Path) -> None:
    folder = layouts.r2sm(tmp_path, layouts.query(), layouts.query("a cup", "modal"))
    result = CliRunner().invoke(app, ["datasets", "check", str(folder)])
    assert result.exit_code == 0
    assert "layout     r2sm" in result.stdout
    assert "queries    2 (1 amodal, 1 modal)" in result.stdout
    assert "instances  1 (1 occluded by more than 5 %)" in result.stdout


def test_faults_are_told_and_refused_if_strict(tmp_path: Path) -> None:
    folder = layouts.r2sm(tmp_path, layouts.query(answer="instance id is 8"))
    lenient = CliRunner().invoke(app, ["datasets", "check", str(folder), "--json"])
    assert lenient.exit_code == 0
    assert json.loads(lenient.stdout)["faults"] == {"dangling_instance": 1}
    assert CliRunner().invoke(app, ["datasets", "check", str(folder), "--strict"]).exit_code == 1


def test_a_field_that_all_depends_on_is_named(tmp_path: Path) -> None:
    folder = layouts.r2sm(tmp_path)
    (folder / "annotations.json").write_text('{"images": []}')
    result = CliRunner().invoke(app, ["datasets", "check", str(folder)])
    assert result.exit_code == 1
    assert "the field 'annotations' is missing" in result.stderr


def test_an_unknown_folder_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["datasets", "check", str(tmp_path)], env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert "looks like one of" in result.stderr
