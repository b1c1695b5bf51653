"""Measuring a server: who is asked what, and which answers count."""

from __future__ import annotations

from itertools import count

import pytest

from server import measuring
from server.client import AnyImage, SegmentClient
from server.schemas import SegmentResponse
from tests.engines.capacity.times import TIMES
from tests.server.conftest import open_gateway, photo, runtime
from tests.server.test_live import Live, live

__all__ = ["live", "open_gateway", "runtime"]


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Photos in place of scenes, which are too large for this gateway; how many were drawn each time."""
    seen: list[int] = []
    widths = count(60)

    async def few(number: int) -> list[tuple[bytes, str]]:
        seen.append(number)
        return [(photo((next(widths), 80)), "the mug") for _ in range(number)]

    monkeypatch.setattr(measuring, "drawn", few)
    monkeypatch.setattr(measuring, "GROUP", 3)
    monkeypatch.setattr(measuring, "GROUPS", 2)
    return seen


class Watched(SegmentClient):
    """Notes of every request how many were under way, whether its picture was uploaded, and the mask's type."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asking = 0
        self.asked: list[tuple[int, bool, object]] = []

    async def segment(self, image: AnyImage, prompt: str | None = None, **options: object) -> SegmentResponse:
        self.asking += 1
        self.asked.append((self.asking, not isinstance(image, bytes), options.get("mask_type", "auto")))
        try:
            return await super().segment(image, prompt, **options)
        finally:
            self.asking -= 1


async def test_stages_are_measured_one_by_one_and_company_in_groups(live: Live, drawing: list[int]) -> None:
    async with Watched(live.url) as client:
        times = await measuring.measured(client, cores=2)
    assert times.cores == 2
    assert times.encode_ms > 0
    assert drawing == [6, 3, 3]
    told = [(number, True, "modal") for number in (1, 1, 1, 1, 2, 3)]
    assert client.asked == [*[(1, False, "auto")] * 6, *told, *told]


async def test_an_overload_asks_with_all_clients_at_once(live: Live, drawing: list[int]) -> None:
    async with Watched(live.url) as client:
        found = await measuring.overload(client, TIMES, 4)
    assert drawing == [4 * measuring.TURNS]
    assert len(client.asked) == 4 * measuring.TURNS
    assert max(number for number, _, _ in client.asked) == 4
    assert found.rate > 0
    assert found.off == pytest.approx(found.simulated / found.rate - 1)


def test_answers_count_while_all_clients_are_busy() -> None:
    """Two clients answered every second; they began late, and one of them ended alone."""
    ended = [9.0, 10.0, 10.5, 11.0, 11.5, 12.0, 20.0, 30.0]
    assert measuring.steady_rate(ended, 2) == pytest.approx(2.0)
    assert measuring.steady_rate([1.0, 2.0, 3.0], 1) == pytest.approx(1.0)
    assert measuring.steady_rate([1.0, 2.0, 3.0], 3) == 0, "all of it is beginning or end"


async def test_scenes_and_their_prompts_are_real_and_new() -> None:
    [(image, prompt), (other, _)] = [*await measuring.drawn(1), *await measuring.drawn(1)]
    assert image.startswith(b"\x89PNG")
    assert len(prompt) > 3
    assert image != other
