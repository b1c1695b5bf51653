"""``r2sm demo``: its table, and one real run of it on the vLLM servers of the session."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from engines.evaluation.samples import LONGEST, SAMPLES
from server.cli import app
from server.commands.demo import WIDTH, as_table, telling_progress
from server.schemas import SegmentResponse
from tests.waiting import until

if TYPE_CHECKING:
    from tests.vllm_fixture import ServedModel

RUN = "from server.cli import main; main()"
MASK = {
    "object": 0,
    "mask_type": "amodal",
    "rle": {"size": [2, 2], "counts": "04"},
    "bbox": [0, 0, 2, 2],
    "area": 12345,
    "score": 0.9,
}


def answer(masks: list[dict[str, object]]) -> SegmentResponse:
    """A response with these masks."""
    return SegmentResponse.model_validate(
        {
            "id": "1",
            "model": "demo",
            "image": {"id": "sha256:0", "width": 2, "height": 2},
            "reasoning": "The yellow book is at the left. " * 10,
            "decision": {"mask_type": "amodal", "confidence": 0.987, "source": "model"},
            "masks": masks,
            "hidden": [],
            "heatmap": None,
            "timings_ms": {"reason": 81.6, "total": 120.2},
            "usage": {"prompt_tokens": 1, "reasoning_tokens": 0},
        }
    )


def test_the_table_says_what_was_asked_and_answered() -> None:
    console = Console(width=WIDTH, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(as_table([(SAMPLES[1], answer([MASK])), (SAMPLES[0], answer([]))]))
    text = " ".join(console.export_text().split())
    for part in ("amodal 0.99", "amodal 12,345", "reason 82", "total 120", "no such", "book is at"):
        assert part in text
    assert max(map(len, console.export_text().splitlines() or [""])) <= WIDTH


@pytest.mark.parametrize(
    ("out", "fault"),
    [
        ("file", "cannot be made a folder: File exists"),
        ("/proc/out", "nothing can be written in /proc/out"),
        ("logged", "gateway.log cannot be written: Is a directory"),
    ],
)
def test_an_out_that_cannot_be_written_is_said_before_anything_is_started(
    out: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "logged/gateway.log").mkdir(parents=True)
    monkeypatch.setattr("server.commands.demo.run_demo", lambda *_: pytest.fail("it was started"))
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / out)], env={"COLUMNS": "200"})
    assert result.exit_code == 2, result.output
    assert "--out: " in result.stderr
    assert fault in result.stderr


async def test_progress_is_told_when_it_changes_and_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.commands.demo.REPEAT_SECONDS", 0.01)
    told = list[str]()

    def starting() -> int:
        told.extend(line.split(" s  ")[1] for line in capsys.readouterr().out.splitlines())
        return told.count("starting")

    async with telling_progress("loading") as tell:
        tell("starting")
        tell("starting")
        assert starting() == 1
        await until(lambda: starting() >= 3)
    assert starting() >= 3
    assert told[0] == "starting"
    assert told[-1] == "ready"


@pytest.mark.vllm
async def test_once_writes_overlays_prints_the_table_and_stops(
    served_model: ServedModel, tmp_path: Path
) -> None:
    if served_model.bundle is None:
        pytest.skip("there is no demo bundle in engines/demo/bundle")
    settings = {
        "R2SM_BUNDLE": str(served_model.bundle),
        "R2SM_REASON_URL": served_model.reason_url,
        "R2SM_CONCENTRATE_URL": served_model.concentrate_url,
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    command = [sys.executable, "-c", RUN, "demo", "--once", "--port", "0", "--out", str(tmp_path / "out")]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    words = output.split()
    for sample in SAMPLES:
        assert set(sample.prompt.split()) <= set(words)
        with Image.open(tmp_path / "out" / f"{sample.name}_overlay.png") as overlay:
            assert overlay.width in (
                LONGEST,
                2 * LONGEST,
            )  # the heatmap is beside it where an object was found
    assert "serving" not in words
