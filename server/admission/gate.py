"""The gate: how many requests may be here, how many are worked on, who is next, and when it closes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engines.deadline import Deadline
from engines.errors import Overloaded
from server.admission.keys import Priority
from server.errors import DRAINING, RequestRejected

RETRY_AFTER = 1.0  # seconds
DRAINING_RETRY_AFTER = 5.0  # seconds: another replica, or this one started anew
BATCH_EVERY = 8
"""While batch requests wait, at most one turn less than this goes to interactive ones in a row."""
SMOOTHING = 0.1
"""Weight of the newest request in the moving average of how long a turn lasts."""
END_SECONDS = 2.0
"""How long work that has been ended may take to clean up."""
Waiting = deque[asyncio.Future[None]]


class Admission:
    """At most `max_in_flight` requests are worked on; `max_queued` more may wait.

    Interactive requests go before batch ones, each kind in the order it came; of `BATCH_EVERY` turns one goes to
    batch requests while any wait. Half of the queue is kept for interactive ones.
    """

    def __init__(self, max_in_flight: int, max_queued: int) -> None:
        self._turns = max_in_flight
        self._queue = max_queued
        self._waiting: dict[Priority, Waiting] = {"interactive": deque(), "batch": deque()}
        self._skipped = 0
        """Turns given to interactive requests since a batch one had its own, or none waited."""
        self._bounds: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = asyncio.Event()
        self._ended = False
        """A drain has taken too long: what is left ends, and nothing begins."""
        self._seconds: float | None = None
        self.present = 0
        self.running = 0

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._closed.is_set()

    def resize(self, max_in_flight: int, max_queued: int) -> None:
        """From now on so many; what is here stays."""
        self._turns, self._queue = max_in_flight, max_queued
        self._grant()

    def waiting(self, priority: Priority) -> int:
        """How many requests of this kind wait for a turn."""
        return len(self._waiting[priority])

    def wait_estimate(self, ahead: int) -> float:
        """Seconds until a request is done that has so many others before it, by the moving average; 0 if unknown."""
        if self._seconds is None or ahead < self._turns:
            return 0.0  # it has its turn at once: nothing to wait for, whatever it will take
        return self._seconds * ((ahead - self._turns + 1) / self._turns + 1)

    @asynccontextmanager
    async def place(
        self, priority: Priority = "interactive", seconds: float | None = None
    ) -> AsyncIterator[None]:
        """A place for a request, taken before its body is read; `seconds` is how long its sender will wait.

        Raises:
            RequestRejected: the server is draining.
            Overloaded: there is no place, or the answer could not come in time.
        """
        if self.draining:
            raise _draining()
        queue = self._queue if priority == "interactive" else (self._queue + 1) // 2
        if self.present >= self._turns + queue:
            raise Overloaded(f"{self.present} requests are here already", self._retry_after())
        self._check_estimate(self.wait_estimate(self.present), seconds)
        self.present += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.present -= 1
            if self.present == 0:
                self._idle.set()

    @asynccontextmanager
    async def turn(self, deadline: Deadline, priority: Priority = "interactive") -> AsyncIterator[None]:
        """A turn to be worked on.

        Raises:
            DeadlineExceeded: it does not come in time.
            Overloaded: it would not come in time.
            RequestRejected: the server stops and has waited for the request long enough.
        """
        async with self.bounded():
            ahead = self.running + self.waiting("interactive")
            ahead += self.waiting("batch") if priority == "batch" else 0
            self._check_estimate(self.wait_estimate(ahead), deadline.left())
            await self._acquire(deadline, priority)
            began = asyncio.get_running_loop().time()
            try:
                yield
            finally:
                self._note(asyncio.get_running_loop().time() - began)
                self.running -= 1
                self._grant()

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """What runs inside is ended with `RequestRejected` when a drain has taken too long."""
        if self._ended:
            raise _draining()
        bound = asyncio.timeout(None)
        try:
            async with bound:
                self._bounds.add(bound)
                try:
                    yield
                finally:
                    self._bounds.discard(bound)
        except TimeoutError as error:
            if bound.expired():
                raise _draining() from error
            raise

    def close(self) -> None:
        """Take nothing new from now on."""
        self._closed.set()

    async def closed(self) -> None:
        """Wait until nothing new is taken."""
        await self._closed.wait()

    async def drain(self, seconds: float) -> bool:
        """Wait until nothing is here; after `seconds` end what is. Tells whether all of it could finish."""
        self.close()
        if await self._emptied(seconds):
            return True
        self._ended = True
        now = asyncio.get_running_loop().time()
        for bound in list(self._bounds):
            bound.reschedule(now)
        await self._emptied(END_SECONDS)
        return False

    async def _emptied(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _acquire(self, deadline: Deadline, priority: Priority) -> None:
        if self.running < self._turns and not any(self._waiting.values()):
            self.running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(turn)
        try:
            async with asyncio.timeout_at(deadline.at):
                await turn
        except TimeoutError as error:
            self._give_up(turn, priority)
            raise deadline.exceeded() from error
        except BaseException:
            self._give_up(turn, priority)
            raise

    def _give_up(self, turn: asyncio.Future[None], priority: Priority) -> None:
        """Leave the queue; a turn that came at the same moment goes to the next."""
        if turn in self._waiting[priority]:
            self._waiting[priority].remove(turn)
        elif turn.done() and not turn.cancelled():
            self.running -= 1
            self._grant()

    def _grant(self) -> None:
        while self.running < self._turns and (queue := self._next()):
            turn = queue.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)

    def _next(self) -> Waiting | None:
        """The queue whose turn it is; None if nobody waits."""
        interactive, batch = self._waiting["interactive"], self._waiting["batch"]
        if not batch:
            self._skipped = 0
            return interactive or None
        if interactive and self._skipped < BATCH_EVERY - 1:
            self._skipped += 1
            return interactive
        self._skipped = 0
        return batch

    def _note(self, seconds: float) -> None:
        average = seconds if self._seconds is None else self._seconds
        self._seconds = average + SMOOTHING * (seconds - average)

    def _check_estimate(self, estimate: float, seconds: float | None) -> None:
        if seconds is not None and estimate > seconds:
            message = f"an answer would take {estimate:.1f} s, more than the {seconds:.1f} s there are"
            raise Overloaded(message, self._retry_after())

    def _retry_after(self) -> float:
        """Seconds until half of the queue will have been worked off."""
        return max(RETRY_AFTER, self.wait_estimate(self.present) / 2)


def _draining() -> RequestRejected:
    return RequestRejected(
        DRAINING, "this server is stopping; ask again, another one answers", retry_after=DRAINING_RETRY_AFTER
    )
