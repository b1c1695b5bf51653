"""The gate: bounds, who is next, what cannot come in time, drains."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from engines.deadline import Deadline
from engines.errors import DeadlineExceeded, Overloaded
from server.admission import Admission, Priority
from server.errors import DRAINING, RequestRejected


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Crowd:
    """Requests that want a turn, and note when they have it."""

    def __init__(self, gate: Admission) -> None:
        self.gate = gate
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, name: str, priority: Priority, seconds: float = 60) -> asyncio.Task[None]:
        async def one() -> None:
            async with self.gate.turn(Deadline.after(seconds), priority):
                self.served.append(name)

        self.tasks.append(asyncio.create_task(one()))
        return self.tasks[-1]


async def test_interactive_goes_first_and_batch_is_never_starved() -> None:
    gate = Admission(1, 100)
    crowd = Crowd(gate)
    async with gate.turn(Deadline.after(60)):
        for number in range(3):
            crowd.ask(f"b{number}", "batch")
        for number in range(20):
            crowd.ask(f"i{number}", "interactive")
        await settle()
    await asyncio.gather(*crowd.tasks)
    assert [name for name in crowd.served if name[0] == "i"] == [f"i{number}" for number in range(20)]
    assert [crowd.served.index(f"b{number}") for number in range(3)] == [7, 15, 22]


async def test_batch_leaves_half_of_the_queue_to_the_others() -> None:
    gate = Admission(1, 4)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(gate.place("batch"))
        with pytest.raises(Overloaded):
            await stack.enter_async_context(gate.place("batch"))
        for _ in range(2):
            await stack.enter_async_context(gate.place("interactive"))
        with pytest.raises(Overloaded):
            await stack.enter_async_context(gate.place("interactive"))
    assert gate.present == 0


async def test_who_leaves_the_queue_takes_no_turn() -> None:
    gate = Admission(1, 10)
    crowd = Crowd(gate)
    async with gate.turn(Deadline.after(60)):
        left, stays = crowd.ask("left", "interactive"), crowd.ask("stays", "interactive")
        late = crowd.ask("late", "batch", seconds=0.01)
        await settle()
        left.cancel()
        with pytest.raises(DeadlineExceeded):
            await late
    await stays
    assert crowd.served == ["stays"]
    assert (gate.running, gate.waiting("interactive"), gate.waiting("batch")) == (0, 0, 0)


async def test_a_turn_given_to_one_who_is_just_leaving_goes_on_to_the_next() -> None:
    gate = Admission(1, 10)
    crowd = Crowd(gate)
    async with gate.turn(Deadline.after(60)):
        left, stays = crowd.ask("left", "interactive"), crowd.ask("stays", "interactive")
        await settle()
    left.cancel()  # the turn is its own already, but it has not run since
    await stays
    assert crowd.served == ["stays"]
    assert gate.running == 0


async def test_what_could_not_come_in_time_is_refused_at_once() -> None:
    gate = Admission(1, 100)
    assert gate.wait_estimate(50) == 0, "nothing is known yet"
    async with gate.turn(Deadline.after(60)):
        await asyncio.sleep(0.05)
    assert gate.wait_estimate(0) == 0, "nobody is there: it begins at once, however long it takes"
    assert gate.wait_estimate(3) >= 4 * 0.05
    async with gate.place(), gate.turn(Deadline.after(60)):
        with pytest.raises(Overloaded, match="would take") as caught:
            async with gate.place(seconds=0.05):
                pass
        with pytest.raises(Overloaded, match="would take"):
            async with gate.turn(Deadline.after(0.05)):
                pass
        async with gate.place(seconds=60):
            pass
    assert caught.value.retry_after >= 1
    assert gate.present == 0


async def test_new_bounds_hold_at_once() -> None:
    gate = Admission(1, 10)
    crowd = Crowd(gate)
    async with gate.turn(Deadline.after(60)):
        crowd.ask("a", "interactive")
        await settle()
        assert not crowd.served
        gate.resize(2, 0)
        await settle()
        assert crowd.served == ["a"]


async def test_a_drain_waits_for_what_runs_and_refuses_the_rest() -> None:
    gate = Admission(2, 2)
    async with gate.place():
        draining = asyncio.create_task(gate.drain(60))
        await settle()
        assert gate.draining
        with pytest.raises(RequestRejected) as caught:
            async with gate.place():
                pass
        assert caught.value.kind is DRAINING
        assert caught.value.retry_after > 0
        assert not draining.done()
    assert await draining


async def test_a_drain_that_takes_too_long_ends_what_runs_and_what_waits() -> None:
    gate = Admission(1, 2)

    async def hang() -> None:
        async with gate.place(), gate.turn(Deadline.after(60)):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(hang()) for _ in ("runs", "waits")]
    await settle()
    assert not await gate.drain(0.01)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [end.kind for end in ends if isinstance(end, RequestRejected)] == [DRAINING, DRAINING]
    with pytest.raises(
        RequestRejected, match="stopping"
    ):  # nor does anything begin that was still on its way
        async with gate.bounded():
            pass
    assert (gate.present, gate.running, gate.waiting("interactive")) == (0, 0, 0)
