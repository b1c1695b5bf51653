"""MemoryLevel: bounded in bytes, the last used ones stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engines.cache.memory import MemoryLevel


def test_the_one_unused_for_longest_makes_room() -> None:
    memory: MemoryLevel[bytes] = MemoryLevel(10, len)
    for key in "abc":
        memory.put(key, b"four")
        memory.get("a")
    assert [key for key, _ in memory] == ["c", "a"]
    assert memory.nbytes == 8


def test_a_value_replaces_an_older_one_and_one_that_does_not_fit_leaves_nothing() -> None:
    memory: MemoryLevel[bytes] = MemoryLevel(10, len)
    memory.put("a", b"four")
    memory.put("a", b"seven..")
    assert (memory.get("a"), memory.nbytes) == (b"seven..", 7)
    memory.put("a", bytes(11))
    assert (memory.get("a"), memory.nbytes) == (None, 0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 12))), st.integers(0, 20))
def test_bytes_are_counted_right_whatever_happens(steps: list[tuple[str, int]], capacity: int) -> None:
    memory: MemoryLevel[bytes] = MemoryLevel(capacity, len)
    for key, size in steps:
        if size:
            memory.put(key, bytes(size))
        else:
            memory.discard(key)
        assert memory.nbytes == sum(len(value) for _, value in memory) <= capacity
