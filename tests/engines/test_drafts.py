"""The drafter by itself: when it draws, what it drops, and that nothing of it outlives the reasoning."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from engines.drafts import Drafter
from engines.errors import MllmUnavailable
from engines.events import MaskDrafted, MaskReady, Rle

MASK = MaskReady(0, "modal", Rle(size=[2, 2], counts="04"), [0, 0, 2, 2], 4, 0.5)
TURNS = 20


class Artist:
    """Draws at once, or when `gate` opens; keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.drafts: list[MaskDrafted] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_work = 0
        self.idle = True
        self.failing = False
        self.rich = True

    async def draw(self, reasoning: str) -> Sequence[MaskReady]:
        self.seen.append(reasoning)
        self.at_work += 1
        assert self.at_work == 1, "one at a time"
        try:
            await self.gate.wait()
        finally:
            self.at_work -= 1
        if self.failing:
            raise MllmUnavailable("away")
        return [MASK]

    def drafter(self, wanted: int) -> Drafter:
        return Drafter(wanted, self.draw, lambda: self.idle, lambda: self.rich, self.drafts.append)


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def test_drafts_are_drawn_at_once_and_as_sentences_end() -> None:
    artist = Artist()
    async with artist.drafter(3) as drafter:
        await settle()
        for end in (5, 11, 14, 30, 40):
            drafter.hear("The mug. It is behind it.\nAnd so on."[:end], end)
            await settle()
    assert artist.seen == ["", "The mug.", "The mug. It is behind it."]
    assert [(draft.number, draft.reasoning_tokens) for draft in artist.drafts] == [(0, 0), (1, 11), (2, 30)]
    assert drafter.drawn == artist.drafts


async def test_while_one_is_drawn_sentences_pass_by() -> None:
    artist = Artist()
    artist.gate.clear()
    async with artist.drafter(3) as drafter:
        await settle()
        drafter.hear("One.", 1)
        drafter.hear("One. Two.", 2)
        artist.gate.set()
        await settle()
    assert artist.seen == ["", "One. Two."]


async def test_a_draft_that_is_not_there_in_time_is_given_up() -> None:
    artist = Artist()
    artist.gate.clear()
    before = asyncio.all_tasks()
    async with artist.drafter(2) as drafter:
        await settle()
        assert artist.at_work == 1
    assert artist.at_work == 0
    assert asyncio.all_tasks() == before
    assert drafter.drawn == []


async def test_no_draft_of_a_busy_engine() -> None:
    artist = Artist()
    artist.idle = False
    async with artist.drafter(2) as drafter:
        await settle()
        artist.idle = True
        drafter.hear("One.", 1)
        await settle()
    assert artist.seen == ["One."]
    assert [draft.number for draft in artist.drafts] == [1], "the first one was dropped"


async def test_a_draft_that_cannot_be_afforded_waits_for_another_sentence() -> None:
    artist = Artist()
    artist.rich = False
    async with artist.drafter(2) as drafter:
        await settle()
        drafter.hear("One.", 1)
        await settle()
        artist.rich = True
        await settle()
        assert artist.seen == [""], "the first one asks for nothing but an idle engine"
        drafter.hear("One. Two.", 2)
        await settle()
    assert artist.seen == ["", "One. Two."]
    assert [draft.number for draft in artist.drafts] == [0, 1]


async def test_an_engine_that_fails_costs_the_draft_only() -> None:
    artist = Artist()
    artist.failing = True
    async with artist.drafter(2) as drafter:
        await settle()
        artist.failing = False
        drafter.hear("One.", 1)
        await settle()
    assert [draft.number for draft in artist.drafts] == [1]


async def test_a_fault_of_the_programs_own_is_not_hidden() -> None:
    async def draw(reasoning: str) -> Sequence[MaskReady]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        async with Drafter(1, draw, lambda: True, lambda: True, lambda draft: None):
            await settle()


async def test_none_wanted_none_drawn() -> None:
    artist = Artist()
    async with artist.drafter(0) as drafter:
        drafter.hear("One.", 1)
        await settle()
    assert artist.seen == []
