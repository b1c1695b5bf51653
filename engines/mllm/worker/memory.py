"""What was written before, and what it says of what comes next.

A second prompt about an image finds its things again, mostly in the same words: there the earlier text goes on
behind the longest run of tokens at which both agree (prompt lookup decoding). Elsewhere the phrases go on that are
written over and over (suffix decoding, https://arxiv.org/abs/2411.04975, with runs of bounded length, not a tree).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import log

from engines.mllm.worker.phrases import Phrases

MOST_IMAGES, MOST_TEXTS, MOST_TOKENS = 2048, 4, 1024
"""Images that are remembered, texts about each, and tokens of each text."""
LEAST_AGREEMENT, MOST_AGREEMENT = 2, 16
"""Tokens at which an earlier text must agree to go on, and beyond which more agreement says nothing."""
AGREES_ON = 0.87
"""How probably a text that agrees agrees at one more token, too."""
SHORTEST = 8
"""Tokens of a text that is worth remembering; what is shorter answers a question, and is no reasoning."""


@dataclass(slots=True)
class Writing:
    """A text that is being written about an image, if it has one, until one of its `ends` is."""

    image: str | None
    ends: Collection[int]
    tokens: list[int] = field(default_factory=list)

    def until_end(self, tokens: Sequence[int]) -> list[int]:
        """What of further tokens belongs to the text."""
        if self.tokens and self.tokens[-1] in self.ends:
            return []
        last = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return list(tokens[: last + 1])


class Memory:
    """Texts by image, and the phrases of all of them. All of it is bounded."""

    def __init__(self) -> None:
        self._writing: dict[str, Writing] = {}
        self._images: OrderedDict[str, deque[array[int]]] = OrderedDict()
        self._phrases = Phrases()

    def begin(self, request: str, image: str | None, ends: Collection[int]) -> None:
        """A request begins to write, until one of the tokens `ends` comes."""
        self._writing[request] = Writing(image, ends)

    def write(self, request: str, tokens: Sequence[int]) -> None:
        """What it has written next; what a step has written behind the end is not part of it."""
        writing = self._writing[request]
        writing.tokens += writing.until_end(tokens)

    def end(self, request: str) -> None:
        """It writes no more: what it has written is remembered."""
        writing = self._writing.pop(request, None)
        if writing is None or len(writing.tokens) < SHORTEST:
            return
        text = array("i", writing.tokens[:MOST_TOKENS])
        self._phrases.learn(text)
        if writing.image is not None:
            texts = self._images.setdefault(writing.image, deque(maxlen=MOST_TEXTS))
            texts.appendleft(text)
            self._images.move_to_end(writing.image)
            if len(self._images) > MOST_IMAGES:
                self._images.popitem(last=False)

    def guess(self, request: str, most: int, least: float) -> list[int]:
        """Up to `most` tokens with which it may go on; none where nothing like it was written before.

        `least`, in 0..1, is the chance that all of them must have to be worth a guess.
        """
        writing = self._writing[request]
        if not writing.tokens:
            return []
        texts = self._images.get(writing.image, ()) if writing.image is not None else ()
        found = _gone_on(texts, writing.tokens, min(most, int(log(least) / log(AGREES_ON))))
        return writing.until_end(found or self._phrases.follow(writing.tokens, most, least))


def _gone_on(texts: Sequence[array[int]], written: Sequence[int], most: int) -> list[int]:
    """How the text goes on that agrees longest with the end of what is written; of two that do so the first."""
    longest, found = LEAST_AGREEMENT - 1, list[int]()
    for text in texts:
        for place in _places_behind(text, written[-1]):
            agreed = _agreement(text, place, written)
            if agreed > longest:
                longest, found = agreed, list(text[place : place + most])
    return found


def _places_behind(text: array[int], token: int) -> Iterator[int]:
    """Where a text goes on behind this token."""
    place = 0
    with suppress(ValueError):  # there is none any more
        while (place := text.index(token, place) + 1) < len(text):
            yield place


def _agreement(text: array[int], place: int, written: Sequence[int]) -> int:
    """At how many tokens before `place` a text agrees with the end of what is written; the last one does."""
    limit = min(place, len(written), MOST_AGREEMENT)
    agreed = 1
    while agreed < limit and text[place - 1 - agreed] == written[-1 - agreed]:
        agreed += 1
    return agreed
