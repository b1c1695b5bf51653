"""MicroBatcher: every waiter gets its own result, whatever arrives, leaves or fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.batching import BatchLimits, MicroBatcher, in_executor
from engines.errors import Overloaded, VisionFailed


@dataclass
class Doubler:
    """A batch function that records what it ran; negative items poison their batch."""

    turns: int = 1  # how many turns of the event loop a batch takes
    gate: asyncio.Event | None = None
    batches: list[list[int]] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    busy: int = 0

    async def __call__(self, items: list[int]) -> Sequence[int]:
        assert self.busy == 0, "two batches at a time"
        self.busy += 1
        try:
            self.batches.append(list(items))
            self.began.set()
            for _ in range(self.turns):
                await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
            if min(items) < 0:
                raise VisionFailed(f"poisoned by {min(items)}")
            return [2 * item for item in items]
        finally:
            self.busy -= 1


async def test_an_idle_batcher_runs_at_once() -> None:
    run = Doubler()
    batcher = MicroBatcher(run, BatchLimits(max_wait=600))
    async with asyncio.timeout(60):
        assert await batcher.submit(4) == 8
        assert await batcher.submit(5) == 10
    assert run.batches == [[4], [5]]


async def test_one_turn_of_the_loop_makes_one_batch() -> None:
    run = Doubler()
    batcher = MicroBatcher(run, BatchLimits(max_size=8, max_wait=600))
    assert await asyncio.gather(*(batcher.submit(i) for i in range(3))) == [0, 2, 4]
    assert run.batches == [[0, 1, 2]]


async def test_items_gather_while_a_batch_runs() -> None:
    gate = asyncio.Event()
    run = Doubler(gate=gate)
    batcher = MicroBatcher(run, BatchLimits(max_size=4, max_wait=0))
    first = asyncio.create_task(batcher.submit(0))
    await run.began.wait()
    others = [asyncio.create_task(batcher.submit(i)) for i in range(1, 7)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(first, *others) == [2 * i for i in range(7)]
    assert run.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_a_batch_under_way_lets_the_next_one_fill_up() -> None:
    gate = asyncio.Event()
    run = Doubler(gate=gate)
    batcher = MicroBatcher(run, BatchLimits(max_size=2, max_wait=600))
    first = asyncio.create_task(batcher.submit(0))
    await run.began.wait()
    second = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0)
    gate.set()
    assert await first == 0
    third = asyncio.create_task(batcher.submit(2))
    async with asyncio.timeout(60):
        assert await second + await third == 6
    assert run.batches == [[0], [1, 2]]


async def test_the_wait_for_others_is_short() -> None:
    gate = asyncio.Event()
    run = Doubler(gate=gate)
    batcher = MicroBatcher(run, BatchLimits(max_size=8, max_wait=0.02))
    first = asyncio.create_task(batcher.submit(0))
    await run.began.wait()
    second = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(60):
        assert await first + await second == 2


async def test_a_full_queue_refuses_the_whole_group() -> None:
    gate = asyncio.Event()
    batcher = MicroBatcher(Doubler(gate=gate), BatchLimits(max_size=1, max_pending=3))
    tasks = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
    await asyncio.sleep(0)  # queued
    await asyncio.sleep(0)  # the first one runs, two wait
    with pytest.raises(Overloaded):
        await batcher.submit_all([7, 8])
    assert batcher.pending == 2
    gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4]


async def test_a_poisoned_item_fails_alone() -> None:
    run = Doubler()
    batcher = MicroBatcher(run, BatchLimits(max_size=8))
    results = await asyncio.gather(*(batcher.submit(i) for i in (1, 2, -3, 4, 5)), return_exceptions=True)
    assert [r for r in results if isinstance(r, int)] == [2, 4, 8, 10]
    assert isinstance(results[2], VisionFailed)
    assert await batcher.submit(6) == 12, "the worker goes on"


async def test_a_failing_sibling_frees_its_group() -> None:
    run = Doubler(turns=10)
    batcher = MicroBatcher(run, BatchLimits(max_size=1))
    with pytest.raises(VisionFailed):
        await batcher.submit_all([-1, 5, 6])
    assert batcher.pending == 0
    assert await batcher.submit(7) == 14
    assert run.batches == [[-1], [5], [7]], "5 had begun, 6 had not"


async def test_a_wrong_number_of_results_is_an_error() -> None:
    async def forgetful(items: list[int]) -> list[int]:
        return items[1:]

    with pytest.raises(RuntimeError, match="1 gave 0 results"):
        await MicroBatcher(forgetful).submit(1)


async def test_leaving_frees_the_place_in_the_queue() -> None:
    gate = asyncio.Event()
    run = Doubler(gate=gate)
    batcher = MicroBatcher(run, BatchLimits(max_size=1, max_pending=1))
    first = asyncio.create_task(batcher.submit(1))
    await run.began.wait()
    for item in range(100):
        leaver = asyncio.create_task(batcher.submit(item))
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
    assert batcher.pending == 0
    gate.set()
    assert await first == 2
    assert run.batches == [[1]], "nobody waits for the others"


async def test_a_batch_waits_for_its_items_to_begin_and_goes_without_those_that_cannot() -> None:
    run, allowed = Doubler(), asyncio.Event()
    batcher = MicroBatcher(run, BatchLimits(max_size=3, max_wait=0))

    async def refuse() -> None:
        raise KeyError("not any more")

    async def begin() -> None:
        await allowed.wait()

    async with asyncio.timeout(60):
        waiting = [
            asyncio.create_task(batcher.submit(1)),
            asyncio.create_task(batcher.submit(2, patient=True, on_turn=begin)),
            asyncio.create_task(batcher.submit(-3, patient=True, on_turn=refuse)),
        ]
        await asyncio.wait(waiting[2:])
        assert not run.batches
        allowed.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
    assert found[:2] == [2, 4]
    assert isinstance(found[2], KeyError)
    assert run.batches == [[1, 2]]


async def test_an_item_that_waits_begins_only_when_its_batch_is_due() -> None:
    run, begun = Doubler(gate=asyncio.Event()), list[int]()
    assert run.gate is not None
    batcher = MicroBatcher(run, BatchLimits(max_size=1, max_wait=0))

    async def begin() -> None:
        begun.append(len(run.batches))

    async with asyncio.timeout(60):
        waiting = [asyncio.create_task(batcher.submit(1))]
        await run.began.wait()
        waiting.append(asyncio.create_task(batcher.submit(2, patient=True, on_turn=begin)))
        waiting.append(asyncio.create_task(batcher.submit(3)))
        await asyncio.sleep(0.05)
        assert begun == []
        run.gate.set()
        assert await asyncio.gather(*waiting) == [2, 4, 6]
    assert (begun, run.batches) == ([2], [[1], [3], [2]])


async def test_closing_refuses_those_who_wait() -> None:
    batcher = MicroBatcher(Doubler(gate=asyncio.Event()), BatchLimits(max_size=1))
    tasks = [asyncio.create_task(batcher.submit(i)) for i in range(3)]
    await asyncio.sleep(0)
    await batcher.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Overloaded) for result in results)
    with pytest.raises(Overloaded):
        await batcher.submit(1)


async def test_a_blocking_function_runs_in_its_executor() -> None:
    with ThreadPoolExecutor(1) as executor:
        batcher: MicroBatcher[int, str] = MicroBatcher(
            in_executor(lambda items: [*map(str, items)], executor)
        )
        assert await batcher.submit_all([1, 2]) == ["1", "2"]


@dataclass(frozen=True)
class Caller:
    """What one simulated request does: come after some turns, bring items, perhaps leave early."""

    comes: int
    items: tuple[int, ...]
    leaves_after: int | None


CALLERS = st.builds(
    Caller,
    comes=st.integers(0, 12),
    items=st.lists(st.integers(-3, 40), min_size=1, max_size=4).map(tuple),
    leaves_after=st.none() | st.integers(0, 8),
)


@given(
    callers=st.lists(CALLERS, max_size=12),
    max_size=st.integers(1, 5),
    max_pending=st.integers(1, 12),
    max_wait=st.sampled_from([0.0, 0.001]),
    turns=st.integers(0, 4),
)
async def test_everybody_gets_their_own(
    callers: list[Caller], max_size: int, max_pending: int, max_wait: float, turns: int
) -> None:
    run = Doubler(turns=turns)
    batcher = MicroBatcher(run, BatchLimits(max_size, max_wait, max_pending))

    async def call(caller: Caller) -> list[int] | str:
        for _ in range(caller.comes):
            await asyncio.sleep(0)
        task = asyncio.create_task(batcher.submit_all(caller.items))
        if caller.leaves_after is not None:
            for _ in range(caller.leaves_after):
                await asyncio.sleep(0)
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return "left"
        except VisionFailed:
            return "failed"
        except Overloaded:
            return "refused"

    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*(call(caller) for caller in callers))

    for caller, outcome in zip(callers, outcomes, strict=True):
        poisoned = min(caller.items) < 0
        if isinstance(outcome, list):
            assert outcome == [2 * item for item in caller.items]
        elif outcome == "failed":
            assert poisoned, "another caller's poison reached this one"
        elif outcome == "left":
            assert caller.leaves_after is not None
        else:
            assert outcome == "refused"
            assert len(caller.items) > max_pending or len(callers) > 1
    assert all(len(batch) <= max_size for batch in run.batches)
    assert batcher.pending == 0
    assert run.busy == 0
