"""Puts a data set's questions to a server, a bounded number at a time, and scores the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from engines.errors import InvalidInput
from engines.evaluation.outcomes import Outcome, QueryFailed, Question, Segment, failure, score


class QuestionSet(Protocol):
    """Scenes by seed, and the questions about each."""

    def scenes(self) -> Iterable[int]:
        """The seeds of the scenes, in order."""

    def questions(self, seed: int) -> Iterator[Question]:
        """The questions about one scene."""


async def evaluate(
    questions: QuestionSet,
    segment: Segment,
    *,
    concurrency: int = 1,
    on_outcome: Callable[[Outcome], object] = lambda _: None,
) -> list[Outcome]:
    """Ask every question of a set, and return the outcomes in the order of the set.

    As many scenes as `concurrency` are under way at once, each asking one question at a time. Pictures are
    drawn and masks compared in worker threads. `on_outcome` is called as the outcomes come.
    """
    if concurrency < 1:
        raise InvalidInput("concurrency must be at least 1")
    seeds = iter(enumerate(questions.scenes()))
    outcomes: dict[int, list[Outcome]] = {}

    async def work() -> None:
        for place, seed in seeds:  # one iterator for all workers: each takes the next scene that is left
            outcomes[place] = []
            for question in await asyncio.to_thread(list, questions.questions(seed)):
                outcome = await ask_one(question, segment)
                outcomes[place].append(outcome)
                on_outcome(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return [outcome for place in sorted(outcomes) for outcome in outcomes[place]]


async def ask_one(question: Question, segment: Segment) -> Outcome:
    """Ask one question; a failure is an outcome too."""
    started = time.perf_counter()
    try:
        answer = await segment(question)
        latency_ms = (time.perf_counter() - started) * 1000
        return await asyncio.to_thread(score, question, answer, latency_ms)
    except QueryFailed as error:
        return failure(question, str(error))
