"""Outbox: events on their way to one client, never more of them than fit."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from server.events import WireEvent


@dataclass(frozen=True, slots=True)
class Letter:
    """One event, as JSON on one line."""

    type: str
    text: str


class Outbox:
    """Events that wait for a client to take them, up to `capacity` characters, or one event of any size.

    Whoever puts more waits until the client has taken some. `close` tells the reader that no more will come.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._letters: deque[Letter] = deque()
        self._changed = asyncio.Condition()
        self._closed = False
        self.size = 0

    async def put(self, event: WireEvent) -> None:
        """Add an event when there is room for it."""
        letter = Letter(event.type, event.model_dump_json())
        async with self._changed:
            await self._changed.wait_for(
                lambda: not self._letters or self.size + len(letter.text) <= self._capacity
            )
            self._letters.append(letter)
            self.size += len(letter.text)
            self._changed.notify_all()

    async def get(self) -> Letter | None:
        """The oldest event, as soon as there is one; None when there will be no more."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._letters or self._closed)
            if not self._letters:
                return None
            letter = self._letters.popleft()
            self.size -= len(letter.text)
            self._changed.notify_all()
            return letter

    async def close(self) -> None:
        """No more events will come."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
