"""MemoryLevel: values of this process by key, the last used ones up to so many bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Value = TypeVar("Value")


class MemoryLevel(Generic[Value]):
    """Least-recently-used memory, `capacity` bytes at most; `weigh` gives a value's bytes."""

    def __init__(self, capacity: int, weigh: Callable[[Value], int]) -> None:
        self._capacity = capacity
        self._weigh = weigh
        self._kept: OrderedDict[str, Value] = OrderedDict()
        self.nbytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def __iter__(self) -> Iterator[tuple[str, Value]]:
        """Keys and values as they are now, the one unused for longest first."""
        return iter(list(self._kept.items()))

    def get(self, key: str) -> Value | None:
        """The value of `key`, which is thereby used."""
        value = self._kept.get(key)
        if value is not None:
            self._kept.move_to_end(key)
        return value

    def put(self, key: str, value: Value) -> None:
        """Keep a value in place of an older one; what is larger than the capacity is not kept."""
        self.discard(key)
        weight = self._weigh(value)
        if weight > self._capacity:
            return
        self._kept[key] = value
        self.nbytes += weight
        while self.nbytes > self._capacity:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= self._weigh(oldest)

    def discard(self, key: str) -> None:
        """Forget the value of `key`, if there is one."""
        if (kept := self._kept.pop(key, None)) is not None:
            self.nbytes -= self._weigh(kept)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.nbytes = 0
