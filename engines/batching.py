"""MicroBatcher: calls from many requests, run together in small batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from engines.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENT_TURN = 8
GAPS = 2.0
SMOOTHING = 0.2  # weight of the newest gap in the average

RunBatch = Callable[[list[Item]], Awaitable[Sequence[Result]]]
OnTurn = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How a `MicroBatcher` collects.

    `max_size` items at most in a batch. `max_wait` seconds is how long an item may be held back for others to
    join it, once batches are under way and as long as others come that often. `max_pending` items may wait; more
    are refused.
    """

    max_size: int = 8
    max_wait: float = 0.002
    max_pending: int = 256

    def __post_init__(self) -> None:
        if self.max_size < 1 or self.max_pending < 1 or self.max_wait < 0:
            raise ValueError(f"limits must be positive: {self}")


@dataclass(frozen=True, slots=True, eq=False)
class _Slot(Generic[Item, Result]):
    item: Item
    arrived: float  # seconds on the loop's clock
    future: asyncio.Future[Result]
    on_turn: OnTurn | None = None


class _Queue(Generic[Item, Result]):
    """Items that wait: urgent ones first, but one place in every `PATIENT_TURN` batches is a patient one's."""

    def __init__(self) -> None:
        self._urgent: deque[_Slot[Item, Result]] = deque()
        self._patient: deque[_Slot[Item, Result]] = deque()
        self._passed_over = 0  # batches since a patient item was last taken

    def __len__(self) -> int:
        return len(self._urgent) + len(self._patient)

    def add(self, slots: Iterable[_Slot[Item, Result]], *, patient: bool) -> None:
        (self._patient if patient else self._urgent).extend(slots)

    def hasten(self, item: Item) -> None:
        """Put a patient item behind the urgent ones."""
        self._urgent.extend(slot for slot in self._patient if slot.item is item)
        self._patient = deque(slot for slot in self._patient if slot.item is not item)

    def oldest(self) -> float:
        """When the item that has waited longest came."""
        return min(lane[0].arrived for lane in (self._urgent, self._patient) if lane)

    def take(self, size: int) -> list[_Slot[Item, Result]]:
        """Up to `size` items for a batch."""
        kept = 1 if self._patient and self._passed_over >= PATIENT_TURN - 1 else 0
        urgent = [self._urgent.popleft() for _ in range(min(size - kept, len(self._urgent)))]
        patient = [self._patient.popleft() for _ in range(min(size - len(urgent), len(self._patient)))]
        self._passed_over = self._passed_over + 1 if self._patient and not patient else 0
        return urgent + patient

    def forget_done(self) -> None:
        """Let go of those whose waiter has left."""
        self._urgent = deque(slot for slot in self._urgent if not slot.future.done())
        self._patient = deque(slot for slot in self._patient if not slot.future.done())


class MicroBatcher(Generic[Item, Result]):
    """Runs items in batches, one batch at a time.

    An item that finds the batcher idle runs at once, with whatever else arrived in the same turn of the event
    loop. While a batch runs, others gather; the next batch starts when it is full, when its oldest item has
    waited `max_wait`, or when nobody has come for `GAPS` times as long as lies between two arrivals on average.
    A batch that fails is run again in halves, down to the items that fail alone: only their waiters see the error.
    Items whose waiter has left are skipped.
    """

    def __init__(
        self,
        run: RunBatch[Item, Result],
        limits: BatchLimits | None = None,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        """`observe` is told the size of every batch before it runs."""
        self._run = run
        self._limits = limits or BatchLimits()
        self._observe = observe
        self._pending: _Queue[Item, Result] = _Queue()
        self._gap = (
            self._limits.max_wait
        )  # seconds between two arrivals, a moving average of no more than max_wait
        self._latest = float("-inf")  # when somebody last came
        self._arrival = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """Items that wait for a batch."""
        return len(self._pending)

    async def submit(self, item: Item, *, patient: bool = False, on_turn: OnTurn | None = None) -> Result:
        """The result of one item. Raises what `run` or `on_turn` raises for it, or `Overloaded`."""
        return (await self.submit_all([item], patient=patient, on_turn=on_turn))[0]

    async def submit_all(
        self, items: Sequence[Item], *, patient: bool = False, on_turn: OnTurn | None = None
    ) -> list[Result]:
        """The results of several items that belong together, in order; they are queued side by side.

        `patient` ones let others go first, but not for ever. When the batch of an item is due it waits for `on_turn`,
        and goes without the item if that fails.

        Raises:
            Overloaded: they do not fit into the queue; none of them was queued.
        """
        if self._closed:
            raise Overloaded("the server is stopping")
        if self.pending + len(items) > self._limits.max_pending:
            raise Overloaded(f"{self.pending} items wait already")
        loop = asyncio.get_running_loop()
        slots = [_Slot(item, loop.time(), loop.create_future(), on_turn) for item in items]
        self._pending.add(slots, patient=patient)
        self._note_arrival(loop.time())
        self._arrival.set()
        if slots and self._worker is None:
            self._worker = loop.create_task(self._drain())
        try:
            return list(await asyncio.gather(*(slot.future for slot in slots)))
        except BaseException:
            self._drop(slots)
            raise

    def hasten(self, item: Item) -> None:
        """From now on `item`, if it waits, is patient no longer."""
        self._pending.hasten(item)

    async def aclose(self) -> None:
        """Refuse new items and stop the batch under way; those who wait get `Overloaded`."""
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._refuse(self._take_all())  # a worker that was cancelled before its first step has refused nobody

    async def _drain(self) -> None:
        """Run batches until nothing waits; then the batcher is idle again."""
        batch: list[_Slot[Item, Result]] = []
        try:
            while batch := self._take():
                await asyncio.gather(
                    *(self._await_turn(slot, slot.on_turn) for slot in batch if slot.on_turn)
                )
                await self._run_slots(batch)
                await self._gather_more()
        finally:
            self._refuse([*batch, *self._take_all()])
            self._worker = None

    @staticmethod
    def _refuse(slots: Iterable[_Slot[Item, Result]]) -> None:
        for slot in slots:
            if not slot.future.done():
                slot.future.set_exception(Overloaded("the server is stopping"))

    def _drop(self, slots: list[_Slot[Item, Result]]) -> None:
        """Give up items whose waiter has left, or whose sibling failed."""
        for slot in slots:
            slot.future.cancel()
        self._pending.forget_done()

    def _note_arrival(self, now: float) -> None:
        gap = min(now - self._latest, self._limits.max_wait)
        self._gap += SMOOTHING * (gap - self._gap)
        self._latest = now

    async def _gather_more(self) -> None:
        """Wait until a full batch has gathered, the oldest item has waited long enough, or nobody else is due."""
        clock = asyncio.get_running_loop().time
        while 0 < self.pending < self._limits.max_size:
            due = self._latest + GAPS * self._gap
            left = min(self._pending.oldest() + self._limits.max_wait, due) - clock()
            if left <= 0:
                return
            self._arrival.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrival.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Slot[Item, Result]]:
        return self._pending.take(self._limits.max_size)

    def _take_all(self) -> list[_Slot[Item, Result]]:
        return self._pending.take(self.pending)

    @staticmethod
    async def _await_turn(slot: _Slot[Item, Result], on_turn: OnTurn) -> None:
        try:
            await on_turn()
        except Exception as error:
            if not slot.future.done():
                slot.future.set_exception(error)

    async def _run_slots(self, slots: list[_Slot[Item, Result]]) -> None:
        slots = [slot for slot in slots if not slot.future.done()]
        if not slots:
            return
        self._observe(len(slots))
        try:
            results = await self._run([slot.item for slot in slots])
            if len(results) != len(slots):
                raise RuntimeError(f"a batch of {len(slots)} gave {len(results)} results")
        except Exception as error:
            await self._isolate(slots, error)
            return
        for slot, result in zip(slots, results, strict=True):
            if not slot.future.done():
                slot.future.set_result(result)

    async def _isolate(self, slots: list[_Slot[Item, Result]], error: Exception) -> None:
        """Fail a single item; run the halves of a failed batch apart."""
        if len(slots) == 1:
            if not slots[0].future.done():
                slots[0].future.set_exception(error)
            return
        middle = len(slots) // 2
        await self._run_slots(slots[:middle])
        await self._run_slots(slots[middle:])


def in_executor(
    run: Callable[[list[Item]], Sequence[Result]], executor: Executor
) -> Callable[[list[Item]], Awaitable[Sequence[Result]]]:
    """A blocking batch function as one that a `MicroBatcher` can await."""

    async def run_there(items: list[Item]) -> Sequence[Result]:
        return await asyncio.get_running_loop().run_in_executor(executor, run, items)

    return run_there
