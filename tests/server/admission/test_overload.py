"""Ten times too much for a minute, on a clock that jumps: the same every time, in a second or so."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from engines.deadline import Deadline
from engines.errors import DeadlineExceeded, Overloaded
from server.admission import Admission, Priority
from tests.jumping_loop import JumpingLoop

TURNS, QUEUED = 8, 64
SERVICE_SECONDS, DEADLINE_SECONDS = 0.4, 5.0
CAPACITY = TURNS / SERVICE_SECONDS  # requests a second
MINUTE = 60.0


@dataclass
class Load:
    """Requests with a deadline, some of whose senders leave before that."""

    gate: Admission
    chance: random.Random
    outcomes: Counter[tuple[str, Priority]] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def one(self, priority: Priority) -> None:
        deadline = Deadline.after(DEADLINE_SECONDS)
        try:
            async with self.gate.place(priority, DEADLINE_SECONDS), self.gate.turn(deadline, priority):
                self.waits.append(deadline.elapsed())
                async with asyncio.timeout_at(deadline.at):
                    await asyncio.sleep(SERVICE_SECONDS * self.chance.uniform(0.5, 1.5))
            self.outcomes["done", priority] += 1
        except Overloaded:
            self.outcomes["refused", priority] += 1
        except (DeadlineExceeded, TimeoutError):
            self.outcomes["late", priority] += 1
        except asyncio.CancelledError:
            self.outcomes["left", priority] += 1

    async def drive(self, rate: float, seconds: float, leaving: float = 0.0) -> float:
        """Requests at `rate` a second; the rate at which they were done in time."""
        before = self._done()
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            priority: Priority = "batch" if self.chance.random() < 0.3 else "interactive"
            task = asyncio.create_task(self.one(priority))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            if self.chance.random() < leaving:
                asyncio.get_running_loop().call_later(self.chance.uniform(0, 2), task.cancel)
            await asyncio.sleep(self.chance.expovariate(rate))
        return (self._done() - before) / seconds

    def _done(self) -> int:
        return self.outcomes["done", "interactive"] + self.outcomes["done", "batch"]


def test_goodput_holds_under_ten_times_the_load_and_recovers() -> None:
    async def run() -> None:
        gate = Admission(TURNS, QUEUED)
        load = Load(gate, random.Random(7))
        best = await load.drive(CAPACITY, MINUTE)
        assert best > 0.8 * CAPACITY
        overloaded = await load.drive(10 * CAPACITY, MINUTE, leaving=0.3)
        assert overloaded >= 0.9 * best, load.outcomes
        assert load.outcomes["refused", "interactive"] > 0
        assert (
            load.outcomes["late", "interactive"] + load.outcomes["late", "batch"] < 0.01 * MINUTE * CAPACITY
        )
        assert load.outcomes["done", "batch"] > 0.05 * MINUTE * overloaded, "batch goes on, too"
        assert len(load.tasks) <= TURNS + QUEUED
        await asyncio.sleep(5)
        load.waits.clear()
        after = await load.drive(0.5 * CAPACITY, MINUTE)
        assert after >= 0.45 * CAPACITY
        assert max(load.waits) < DEADLINE_SECONDS / 2
        await asyncio.gather(*load.tasks)
        assert (gate.present, gate.running, gate.waiting("interactive"), gate.waiting("batch")) == (
            0,
            0,
            0,
            0,
        )

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(run())
