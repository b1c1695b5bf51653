"""Puts a data set's questions to a server, a bounded number at a time, and scores the answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from engines.errors import InvalidInput
from engines.evaluation.outcomes import Outcome, QueryFailed, Segment, failure, score
from engines.evaluation.questions import DataSet, Fault, FaultyData, Question, Reading
from engines.evaluation.results import Record, Results, key_of

AHEAD = 2  # questions read ahead for each request under way, and answers that may wait to be scored
READERS, SCORERS = 4, 2  # pictures and answers at once
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before asking again


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run: `limit` queries at most, each asked up to `retries` times more while that may help."""

    concurrency: int = 1
    limit: int | None = None
    retries: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InvalidInput("concurrency must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise InvalidInput("the limit must be at least 1")
        if self.retries < 0:
            raise InvalidInput("retries cannot be fewer than none")


@dataclass(slots=True)
class Ran:
    """What came of a run: outcomes and records in the order of the data set, faults as they were met."""

    outcomes: list[Outcome] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


Numbered = tuple[int, Question]
Answered = tuple[int, Question, Record]


async def evaluate(
    dataset: DataSet,
    segment: Segment,
    plan: Plan | None = None,
    *,
    results: Results | None = None,
    on_outcome: Callable[[Outcome], object] = lambda _: None,
) -> Ran:
    """Ask every question of a set.

    Pictures are read ahead, several at once, and masks compared in worker threads, so that `plan.concurrency`
    requests are always under way. Answers that `results` holds already are scored and not asked for again.

    Raises:
        FaultyData: with `plan.strict`, at the first thing that cannot be used.
    """
    plan = plan or Plan()
    run = _Running(dataset, segment, plan, results, on_outcome)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run.supply())
            askers = [tasks.create_task(run.ask()) for _ in range(plan.concurrency)]
            scorers = [tasks.create_task(run.score()) for _ in range(SCORERS)]
            tasks.create_task(run.finish(askers, scorers))
    except ExceptionGroup as group:
        faulty = group.subgroup(FaultyData)
        if faulty is None:
            raise
        raise faulty.exceptions[0] from None
    return run.ran()


class _Running:
    """One run: questions → askers → scorers, with a bounded queue before each."""

    def __init__(
        self,
        dataset: DataSet,
        segment: Segment,
        plan: Plan,
        results: Results | None,
        on_outcome: Callable[[Outcome], object],
    ) -> None:
        self._dataset, self._segment, self._plan = dataset, segment, plan
        self._results, self._on_outcome = results, on_outcome
        self._questions: asyncio.Queue[Numbered | None] = asyncio.Queue(AHEAD * plan.concurrency)
        self._answers: asyncio.Queue[Answered | None] = asyncio.Queue(AHEAD * plan.concurrency)
        self._done: dict[int, tuple[Outcome, Record]] = {}
        self._faults: list[Fault] = list(results.earlier.faults) if results else []

    async def supply(self) -> None:
        """Read the pictures, in order, and queue their questions."""
        number = 0
        async with aclosing(read_ahead(self._dataset)) as readings:
            async for reading in readings:
                if self._plan.strict and reading.faults:
                    raise FaultyData(reading.faults[0])
                self._faults += reading.faults
                for question in reading.questions:
                    await self._questions.put((number, question))
                    number += 1
                    if number == self._plan.limit:
                        return await self._end_questions()
        return await self._end_questions()

    async def ask(self) -> None:
        """Take questions and queue their answers, those that are known already too."""
        while (item := await self._questions.get()) is not None:
            number, question = item
            known = self._results.earlier.records.get(question.label) if self._results else None
            if known is not None and known.key == key_of(question) and known.answer() is not None:
                await self._answers.put((number, question, known))
                continue
            record = await ask_one(question, self._segment, self._plan.retries)
            if self._results is not None:
                self._results.add(record)
            await self._answers.put((number, question, record))

    async def score(self) -> None:
        """Take answers and score them."""
        while (item := await self._answers.get()) is not None:
            number, question, record = item
            outcome = await asyncio.to_thread(score_record, question, record)
            self._done[number] = (outcome, record)
            self._on_outcome(outcome)

    async def finish(self, askers: list[asyncio.Task[None]], scorers: list[asyncio.Task[None]]) -> None:
        """Tell the scorers when no more answers will come."""
        await asyncio.wait(askers)
        for _ in scorers:
            await self._answers.put(None)

    def ran(self) -> Ran:
        """All of it, in order."""
        done = [self._done[number] for number in sorted(self._done)]
        return Ran([outcome for outcome, _ in done], [record for _, record in done], self._faults)

    async def _end_questions(self) -> None:
        for _ in range(self._plan.concurrency):
            await self._questions.put(None)


async def read_ahead(dataset: DataSet, at_once: int = READERS) -> AsyncGenerator[Reading]:
    """The pictures of a set in order, each read in a worker thread; the next ones are being read meanwhile."""
    reading: deque[asyncio.Task[Reading]] = deque()
    try:
        for picture in dataset.pictures():
            reading.append(asyncio.create_task(asyncio.to_thread(dataset.read, picture)))
            if len(reading) == at_once:
                yield await reading.popleft()
        while reading:
            yield await reading.popleft()
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def ask_one(question: Question, segment: Segment, retries: int = 0) -> Record:
    """Ask one question, again with growing pauses where that may help, or as late as the server says.

    A failure is a record, too.
    The latency is that of the attempt that was answered: pauses do not count.
    """
    for attempt in range(retries + 1):
        started = time.perf_counter()
        try:
            answer = await segment(question)
        except QueryFailed as error:
            if not error.again or attempt == retries:
                return Record.of(question, None, None, str(error))
            pause = FIRST_WAIT * 2**attempt * random.uniform(0.5, 1)
            await asyncio.sleep(max(error.wait, min(LONGEST_WAIT, pause)))
        else:
            return Record.of(question, answer, (time.perf_counter() - started) * 1000, None)
    raise AssertionError("the last attempt returns")


def score_record(question: Question, record: Record) -> Outcome:
    """The outcome of a question from what came of it."""
    answer = record.answer()
    if answer is None:
        return failure(question, record.error or "no answer")
    try:
        return score(question, answer, record.latency_ms)
    except QueryFailed as error:
        return failure(question, str(error))
