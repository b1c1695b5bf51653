"""``r2sm capacity``: plans from a file of stage times; measuring a server; what cannot be planned."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines.capacity.stages import StageTimes
from server.cli import app
from server.client import SegmentClient
from server.commands import capacity
from server.measuring import LOADS, Overload
from tests.engines.capacity.times import TIMES


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    path = tmp_path / "stages.json"
    path.write_text(TIMES.model_dump_json())
    return path


def test_a_plan_is_printed_with_its_headroom(stages: Path) -> None:
    result = CliRunner().invoke(
        app, ["capacity", "--rate", "10", "--reason-gpus", "2", "--stages", str(stages)]
    )
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split() for line in result.output.splitlines() if line}
    assert int(rows["reason"][2]) == 2 * int(rows["reason"][1])
    assert all(int(rows[part][4].rstrip("%")) >= 30 for part in ("gateway", "reason", "concentrate"))
    assert "R2SM_MAX_IN_FLIGHT" in result.output


def test_objects_whose_cost_nobody_measured_are_not_passed_over(stages: Path) -> None:
    asked = ["capacity", "--rate", "1", "--objects", "4", "--stages", str(stages)]
    assert "further objects" not in CliRunner().invoke(app, asked).stderr
    free = TIMES.model_copy(update={"concentrate_object_ms": 0.0, "decode_object_ms": 0.0})
    stages.write_text(free.model_dump_json())
    assert "does not say what further objects cost" in CliRunner().invoke(app, asked).stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rate", "10", "--slo", "0.1"), "alone takes"),
        (("--rate", "10", "--stages", "/nowhere.json"), "nowhere"),
        (("--measure", "http://127.0.0.1:9"), "127.0.0.1:9"),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_line(stages: Path, options: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(app, ["capacity", "--stages", str(stages), *options])
    assert result.exit_code == 1
    assert words in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("place", "fault"),
    [(".", "Is a directory"), ("away/stages.json", "No such file"), ("file/stages.json", "Not a directory")],
)
def test_stages_that_cannot_be_written_are_said_before_anything_is_measured(
    place: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(capacity, "stage_times", lambda *_: pytest.fail("it was measured"))
    words = ["capacity", "--measure", "http://here", "--stages", str(tmp_path / place)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 2, result.output
    assert "--stages: " in result.stderr
    assert f"cannot be written: {fault}" in result.stderr


def test_a_measurement_that_fails_leaves_the_earlier_one(stages: Path) -> None:
    before = stages.read_text()
    words = ["capacity", "--measure", "http://127.0.0.1:9", "--stages", str(stages)]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert stages.read_text() == before


def test_an_overload_that_was_foretold_wrongly_is_not_passed_over(
    stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def known(client: SegmentClient, cores: int | None) -> StageTimes:
        return TIMES.model_copy(update={"cores": cores})

    async def found(client: SegmentClient, times: StageTimes, clients: int) -> Overload:
        return Overload(clients, 10.0, 11.0 if clients == LOADS[0] else 7.9)

    monkeypatch.setattr(capacity, "measured", known)
    monkeypatch.setattr(capacity, "overload", found)
    result = CliRunner().invoke(
        app, ["capacity", "--measure", "http://here", "--cores", "3", "--stages", str(stages)]
    )
    assert result.exit_code == 0, result.output
    assert f"{LOADS[0]} clients at once: 10.00 requests/s, simulated 11.00 (+10%)" in result.stdout
    assert f"{LOADS[1]} clients at once: 10.00 requests/s, simulated 7.90 (-21%)" in result.stdout
    assert result.stderr.count("more than 20% off") == 1
    assert StageTimes.model_validate_json(stages.read_bytes()).cores == 3
