"""``r2sm capacity``: plans from a file of stage times; measuring a server; what cannot be planned."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines.capacity.stages import StageTimes
from server.cli import app
from server.commands import capacity
from tests.engines.capacity.times import TIMES
from tests.server.conftest import open_gateway, photo, runtime
from tests.server.test_live import Live, live

__all__ = ["live", "open_gateway", "runtime"]


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


async def test_a_server_is_measured(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "REQUESTS", 4)
    monkeypatch.setattr(
        capacity, "question", lambda seed: (photo(), "the mug")
    )  # scenes are too large for this gateway
    times = await capacity.measured(live.url, cores=2)
    assert isinstance(times, StageTimes)
    assert times.cores == 2
    assert times.encode_ms > 0


def test_a_scene_and_its_prompt_are_real() -> None:
    image, prompt = capacity.question(capacity.SCENES)
    assert image.startswith(b"\x89PNG")
    assert len(prompt) > 3
