"""Which token mostly follows which others, in all that was written so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

LONGEST = 6
"""Tokens that are looked at before the one that is guessed."""
MOST_CONTEXTS = 50_000
"""Contexts in each of two generations: what has not been written again for so many new ones is forgotten."""
MOST_FOLLOWERS = 64
"""Different tokens that are counted behind one context; where there are more, the rarer half is forgotten."""

Contexts = dict[tuple[int, ...], Counter[int]]


class Phrases:
    """Counts of what followed each run of up to `LONGEST` tokens, bounded."""

    def __init__(self, most: int = MOST_CONTEXTS) -> None:
        self._most = most
        self._young: Contexts = {}
        self._old: Contexts = {}

    def learn(self, tokens: Sequence[int]) -> None:
        """A text that has been written."""
        for end in range(1, len(tokens)):
            for start in range(max(end - LONGEST, 0), end):
                self._count(tuple(tokens[start:end]), tokens[end])

    def follow(self, tokens: Sequence[int], most: int, least: float) -> list[int]:
        """Up to `most` tokens that probably come next, as long as the chance of all of them is `least`.

        What was seen once may as well come as not: a token's chance is its count over one more than all.
        """
        found: list[int] = []
        context, chance = list(tokens[-LONGEST:]), 1.0
        while len(found) < most and (followers := self._known(context)):
            token, times = followers.most_common(1)[0]
            chance *= times / (followers.total() + 1)
            if chance < least:
                break
            found.append(token)
            context = [*context[-LONGEST + 1 :], token]
        return found

    def _known(self, context: Sequence[int]) -> Counter[int] | None:
        """What followed as much of the context's end as has been seen."""
        for start in range(len(context)):
            end = tuple(context[start:])
            if followers := self._young.get(end) or self._old.get(end):
                return followers
        return None

    def _count(self, context: tuple[int, ...], token: int) -> None:
        followers = self._followers(context)
        followers[token] += 1
        if len(followers) > MOST_FOLLOWERS:
            self._young[context] = Counter(dict(followers.most_common(MOST_FOLLOWERS // 2)))

    def _followers(self, context: tuple[int, ...]) -> Counter[int]:
        followers = self._young.get(context)
        if followers is None:
            if len(self._young) >= self._most:
                self._young, self._old = {}, self._young
            followers = self._young[context] = self._old.pop(context, Counter())
        return followers
