"""What the profile draws, of stages and frames that are known, and a whole profile on stand-in engines."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest

from loadtests.profile.command import as_page, gathered, run_profile
from loadtests.profile.drawing import Frame, flame_graph, hottest, timeline
from loadtests.profile.timeline import Bar, Timeline, spent
from server.opening import OpenEngines
from server.settings import Settings
from server.telemetry.telemetry import Telemetry
from tests.server.stand_in_engines import stand_in_engines
from tests.stand_ins import ScriptedMllm, tiny_vision

TREE = Frame("main", 1.0, [Frame("a", 0.6, [Frame("c", 0.1)]), Frame("b", 0.3, [Frame("c", 0.3)])])


async def test_stages_of_requests_side_by_side_are_told_apart() -> None:
    heard = Timeline()

    async def one(name: str) -> None:
        with heard.request("POST", {}), heard.stage(name):
            await asyncio.sleep(0.01)
            await asyncio.create_task(inner(name))

    async def inner(name: str) -> None:
        with heard.stage(f"in {name}"):
            await asyncio.sleep(0)
        heard.past("before", 0.5)

    await asyncio.gather(one("x"), one("y"))
    lanes = {bar.name: bar.lane for bar in heard.bars if bar.name != "before"}
    assert lanes["x"] == lanes["in x"] != lanes["y"] == lanes["in y"]
    assert all(bar.ended - bar.began >= 0.5 for bar in heard.bars if bar.name == "before")


def test_a_stage_is_a_share_of_its_own_request() -> None:
    bars = [
        Bar(0, "request", 0.0, 1.0),
        Bar(0, "reason", 0.1, 0.6),
        Bar(0, "decode", 0.6, 0.7),
        Bar(0, "decode", 0.7, 0.8),
        Bar(1, "reason", 0.0, 1.0),
        Bar(1, "request", 0.0, 4.0),
        Bar(-1, "request", 0.0, 9.0),
    ]
    found = {one.name: (round(one.milliseconds), round(one.share, 6)) for one in spent(bars)}
    assert found == {"request": (2500, 1.0), "reason": (750, 0.375), "decode": (200, 0.2)}
    assert spent([]) == []


def test_bars_are_where_and_as_long_as_their_stages() -> None:
    drawn = timeline([Bar(0, "encode", 10.0, 10.1), Bar(0, "<reason>", 10.1, 10.4)])
    (left, wide), (later, longer) = [
        tuple(map(float, pair))
        for pair in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn)
    ]
    assert later == pytest.approx(left + wide, abs=0.2)
    assert longer == pytest.approx(3 * wide, rel=0.01)
    assert "&lt;reason&gt;" in drawn
    assert "No stage" in timeline([])


def test_frames_are_as_wide_as_their_time_and_callees_below_their_callers() -> None:
    found = re.findall(
        r'<title>(\w+): .*?<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', flame_graph(TREE)
    )
    placed = [(name, float(x), float(y), float(wide)) for name, x, y, wide in found]
    whole = placed[0][3]
    assert [name for name, *_ in placed] == ["main", "a", "c", "b", "c"]
    assert [round(wide / whole, 3) for *_, wide in placed] == [1.0, 0.6, 0.1, 0.3, 0.3]
    assert placed[3][1] == pytest.approx(0.6 * whole, abs=0.1), "b begins where a ends"
    assert placed[2][2] > placed[1][2] > placed[0][2]


def test_time_of_ones_own_is_added_up_over_all_callers() -> None:
    spent = dict(hottest(TREE, 10))
    assert spent == {
        key: pytest.approx(value) for key, value in {"main": 0.1, "a": 0.5, "b": 0.0, "c": 0.4}.items()
    }
    assert [name for name, _ in hottest(TREE, 2)] == ["a", "c"]


@pytest.mark.skipif(find_spec("pyinstrument") is None, reason="pyinstrument is not installed")
async def test_a_profile_has_a_page_for_one_request_and_one_for_a_batch(tmp_path: Path) -> None:
    @asynccontextmanager
    async def engines(settings: Settings, telemetry: Telemetry | None = None) -> AsyncIterator[OpenEngines]:
        yield OpenEngines(stand_in_engines(ScriptedMllm(), tiny_vision(tmp_path)), None)

    with patch("server.running.open_engines", engines):
        pages = await run_profile(Settings(port=0), tmp_path, batch=3)
    assert [page.path.name for page in pages] == ["request.html", "batch.html"]
    whole = pages[0].path.read_text("utf-8")
    one, several = (page.path.read_text("utf-8").partition("own code")[0] for page in pages)
    assert [one.name for one in pages[0].spent if one.share == 1.0] == ["request"]
    for stage in ("admission", "load image", "encode", "reason", "decide", "concentrate", "decode", "finish"):
        assert f">{stage}</text>" in one
        assert several.count(f">{stage}</text>") == 3
    assert whole.count("<title>") > 10, "the gateway's frames"
    assert "src=" not in whole


@dataclass
class Seen:
    """Stands in for pyinstrument's frames."""

    function: str
    time: float
    children: list[Seen] = field(default_factory=list)
    file_path: str = "/somewhere/a.py"


def test_what_was_seen_of_a_function_at_several_moments_is_one_frame() -> None:
    moments = [Seen("f", 0.2, [Seen("[self]", 0.1), Seen("g", 0.1)]), Seen("[self]", 0.5), Seen("f", 0.3)]
    root = gathered([Seen("main", 1.0, moments)])  # type: ignore[list-item]
    assert root.name == "main a.py"
    assert root.own == pytest.approx(0.5)
    [inner] = root.inner
    assert inner.seconds == pytest.approx(0.5)
    assert inner.own == pytest.approx(0.4)
    assert [(frame.name, frame.seconds) for frame in inner.inner] == [("g a.py", 0.1)]


def test_a_page_escapes_what_it_shows() -> None:
    page = as_page("a <b>", [Bar(0, "<s>", 0.0, 1.0)], Frame("<lambda>", 1.0))
    assert "<lambda>" not in page
    assert "<b>" not in page
