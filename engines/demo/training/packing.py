"""One scene's prompts and answers as one token sequence that branches.

All prompts on a scene share the image: the sequence is a prefix (the image), then a family for each prompt:
the prompt with its answer, and forks, which are answers that leave it early, with less reasoning or the other
decision. A token sees its own segment up to itself and what its ancestors hold up to the point where its
segment leaves them, so the states equal those of separate sequences while the image and the prompts are
computed once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Family:
    """A prompt's tokens [start, start + L); `allowed` bool [L, P + L]: who sees whom, the P of the prefix first."""

    start: int
    allowed: NDArray[np.bool_]


@dataclass(slots=True)
class Packed:
    """A branching sequence under construction: its tokens and their (t, h, w) M-RoPE positions."""

    ids: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    prefix: int = 0
    _starts: list[int] = field(default_factory=list)
    _rows: list[NDArray[np.int64]] = field(default_factory=list)

    def add_prefix(
        self, before: list[int], image_token: int, grid: tuple[int, int], after: list[int]
    ) -> None:
        """Start with text, an image of `grid` (rows, columns) tokens, and text."""
        rows, columns = grid
        start = len(before)
        self.ids = [*before, *[image_token] * (rows * columns), *after]
        self.positions = [(i, i, i) for i in range(start)]
        self.positions += [(start, start + r, start + c) for r in range(rows) for c in range(columns)]
        following = start + max(rows, columns)
        self.positions += [(following + i,) * 3 for i in range(len(after))]
        self.prefix = len(self.ids)
        self._rows = [np.arange(i + 1) for i in range(self.prefix)]

    def add_family(self, ids: list[int]) -> int:
        """Append a prompt and its answer after the prefix; the first new index."""
        self._starts.append(len(self.ids))
        return self._add(ids, self.prefix - 1)

    def add_fork(self, ids: list[int], leaves: int) -> int:
        """Append tokens that follow token `leaves` of the latest family; the first new index."""
        return self._add(ids, leaves)

    def _add(self, ids: list[int], leaves: int) -> int:
        first = len(self.ids)
        place = max(self.positions[leaves]) + 1
        self.ids += ids
        self.positions += [(place + i,) * 3 for i in range(len(ids))]
        own = np.arange(first, first + len(ids))
        self._rows += [np.concatenate([self._rows[leaves], own[: i + 1]]) for i in range(len(ids))]
        return first

    def families(self) -> tuple[Family, ...]:
        """All families, in order."""
        ends = [*self._starts[1:], len(self.ids)]
        return tuple(self._family(start, end) for start, end in zip(self._starts, ends, strict=True))

    def _family(self, start: int, end: int) -> Family:
        allowed = np.zeros((end - start, self.prefix + end - start), dtype=np.bool_)
        for row in range(start, end):
            seen = self._rows[row]
            allowed[row - start, np.where(seen < self.prefix, seen, seen - start + self.prefix)] = True
        return Family(start, allowed)
