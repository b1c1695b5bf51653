"""MicroBatcher on a virtual clock: how long items wait, and who goes first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from engines.batching import GAPS, PATIENT_TURN, BatchLimits, MicroBatcher
from engines.errors import VisionFailed
from tests.jumping_loop import run_jumping

SERVICE = 0.010  # seconds that every batch takes
WAIT = 0.004
SLACK = 1e-6


@dataclass(frozen=True)
class Arrival:
    """An item that comes `after` seconds after the one before it."""

    after: float
    patient: bool = False
    poisoned: bool = False
    leaves: bool = False


@dataclass
class Clocked:
    """A batch function that takes `SERVICE` and notes when each item was begun."""

    begun: dict[int, float] = field(default_factory=dict)
    batches: list[list[int]] = field(default_factory=list)
    poisoned: frozenset[int] = frozenset()

    async def __call__(self, items: list[int]) -> Sequence[int]:
        now = asyncio.get_running_loop().time()
        self.batches.append(items)
        for item in items:
            self.begun.setdefault(item, now)
        await asyncio.sleep(SERVICE)
        if self.poisoned & set(items):
            raise VisionFailed("poisoned")
        return [10 * item for item in items]


@dataclass
class Run:
    """What became of some arrivals."""

    work: Clocked
    came: list[float]
    results: list[int | BaseException]


async def play(arrivals: Sequence[Arrival], max_size: int) -> Run:
    work = Clocked(poisoned=frozenset(i for i, arrival in enumerate(arrivals) if arrival.poisoned))
    batcher = MicroBatcher(work, BatchLimits(max_size, WAIT, max_pending=1000))
    loop = asyncio.get_running_loop()
    tasks, came = [], []
    for number, arrival in enumerate(arrivals):
        if arrival.after:
            await asyncio.sleep(arrival.after)
        came.append(loop.time())
        tasks.append(loop.create_task(batcher.submit(number, patient=arrival.patient)))
        if arrival.leaves:
            loop.call_later(SERVICE / 2, tasks[-1].cancel)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert batcher.pending == 0
    return Run(work, came, list(results))


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        after=st.sampled_from([0.0, 0.0, 0.0005, 0.002, 0.03]),
        patient=st.booleans(),
        poisoned=st.sampled_from([False] * 9 + [True]),
        leaves=st.sampled_from([False] * 5 + [True]),
    ),
    max_size=40,
)


@given(arrivals=ARRIVALS, max_size=st.integers(1, 6))
def test_everybody_gets_their_own_and_only_the_poisoned_fail(arrivals: list[Arrival], max_size: int) -> None:
    run = run_jumping(play(arrivals, max_size))
    for number, (arrival, result) in enumerate(zip(arrivals, run.results, strict=True)):
        if isinstance(result, asyncio.CancelledError):
            assert arrival.leaves
        elif isinstance(result, VisionFailed):
            assert arrival.poisoned
        else:
            assert result == 10 * number
            assert not arrival.poisoned
    assert all(len(batch) <= max_size for batch in run.work.batches)


@given(arrivals=ARRIVALS, max_size=st.integers(1, 6))
def test_nobody_waits_beside_an_idle_device(arrivals: list[Arrival], max_size: int) -> None:
    """Nothing runs for longer than `WAIT` while an item waits, and not at all where the batcher was idle."""
    run = run_jumping(play([Arrival(one.after, one.patient) for one in arrivals], max_size))
    ends = {0: 0.0}
    for number, batch in enumerate(run.work.batches):
        start = run.work.begun[batch[0]]
        free, oldest = ends[number], min(run.came[item] for item in batch)
        assert start <= max(free, oldest + WAIT) + SLACK
        if oldest > free:
            assert start <= oldest + SLACK, "it came to an idle batcher"
        ends[number + 1] = start + SERVICE


@given(urgent=st.integers(20, 60), max_size=st.integers(1, 3))
def test_patient_items_are_never_starved(urgent: int, max_size: int) -> None:
    """Under an overload of urgent items one patient item goes in every `PATIENT_TURN` batches."""
    arrivals = [Arrival(0), *[Arrival(0, patient=True)] * 3, *[Arrival(0)] * urgent]
    run = run_jumping(play([*arrivals[:1], Arrival(SERVICE / 2, patient=True), *arrivals[2:]], max_size))
    place = {item: number for number, batch in enumerate(run.work.batches) for item in batch}
    for turn, patient in enumerate((1, 2, 3), start=1):
        assert place[patient] <= PATIENT_TURN * turn
    if urgent > PATIENT_TURN * max_size:
        assert place[1] == min(PATIENT_TURN, place[1])
        assert place[1] > place[4], "urgent ones went first"


def test_the_wait_is_for_those_who_come_often() -> None:
    """With arrivals every 0.5 ms a free place is waited for; after the last of them for `GAPS` such gaps only."""
    run = run_jumping(play([Arrival(0.0005)] * 40, max_size=64))
    begun = [run.work.begun[batch[0]] for batch in run.work.batches]
    assert len(run.work.batches) < 6
    waited = begun[-1] - max(run.came[-1], begun[-2] + SERVICE)
    assert waited <= GAPS * 0.0006


def test_rare_arrivals_are_not_held_back() -> None:
    run = run_jumping(play([Arrival(0.03)] * 5, max_size=8))
    assert run.work.batches == [[0], [1], [2], [3], [4]]
    assert [run.work.begun[i] - run.came[i] for i in range(5)] == [0.0] * 5
