"""Reading ahead: several pictures at once, in order, and no more of them than are wanted."""

from __future__ import annotations

import threading
import time

import pytest

from engines.evaluation.outcomes import Answer
from engines.evaluation.questions import Question, Reading
from engines.evaluation.runner import READERS, Plan, evaluate, read_ahead
from tests.engines.evaluation.layouts import SHAPE, left

PATIENCE = 60.0


class Pictures:
    """Twelve pictures with a question each; keeps which were read."""

    def __init__(self) -> None:
        self.read_so_far: list[str] = []

    def pictures(self) -> list[str]:
        """Their numbers."""
        return [str(number) for number in range(12)]

    def read(self, picture: str) -> Reading:
        """One question."""
        self.read_so_far.append(picture)
        return Reading((Question(picture, b"", SHAPE, "x", "modal", (left(),), (), "form"),))


class Together(Pictures):
    """Are read only four at once: each waits for three others."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Barrier(READERS, timeout=PATIENCE)

    def read(self, picture: str) -> Reading:
        """One question; the first of the four comes last."""
        self.gate.wait()
        time.sleep(0.0 if int(picture) % READERS else 0.02)
        return super().read(picture)


async def nothing(_: Question) -> Answer:
    """A server that sees nothing."""
    return Answer("modal", "", {})


async def test_several_pictures_are_read_at_once_and_asked_in_order() -> None:
    ran = await evaluate(Together(), nothing, Plan(concurrency=1))
    assert [outcome.label for outcome in ran.outcomes] == Together().pictures()


async def test_nothing_far_beyond_the_limit_is_read() -> None:
    pictures = Pictures()
    ran = await evaluate(pictures, nothing, Plan(concurrency=1, limit=2))
    assert len(ran.outcomes) == 2
    assert set(pictures.read_so_far) <= {str(number) for number in range(2 + READERS)}


async def test_a_picture_that_cannot_be_read_ends_the_others() -> None:
    class Broken(Pictures):
        def read(self, picture: str) -> Reading:
            if picture == "2":
                raise ZeroDivisionError
            return super().read(picture)

    broken = Broken()
    with pytest.raises(ZeroDivisionError):
        [reading async for reading in read_ahead(broken)]
    assert set(broken.read_so_far) <= {str(number) for number in range(2 + READERS)}
