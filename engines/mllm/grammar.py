"""Reading the model's answer as it streams, and keeping a user's text from speaking the answer's language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from engines.errors import BundleError, InvalidInput


def escape_specials(text: str, specials: re.Pattern[str]) -> str:
    """`text` with a space behind the first character of every special token, which is then plain text.

    Repeated until none is left, for tokens that overlap. Nothing else changes.
    """
    while specials.search(text):
        text = specials.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The tokens a tokenizer recognises anywhere in a text, and their ids; and those of a few common words."""

    ids: Mapping[str, int]
    words: Mapping[str, int] = field(default_factory=dict)
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        breakable = [token for token in self.ids if len(token) > 1 and not token.isspace()]
        object.__setattr__(self, "_pattern", _any_of(breakable))

    @classmethod
    def load(cls, mllm_path: Path, words: Iterable[str] = ()) -> SpecialTokens:
        """Read the added tokens of ``tokenizer.json``, and the ids of `words`.

        Raises:
            BundleError: there is no such list, or a word is not one token.
        """
        path = mllm_path / "tokenizer.json"
        try:
            added = json.loads(path.read_text(encoding="utf-8"))["added_tokens"]
            ids = {token["content"]: token["id"] for token in added}
        except (OSError, ValueError, KeyError, TypeError) as fault:
            raise BundleError(f"{path.name} of the language model lists no added tokens: {fault}") from fault
        return cls(ids, word_ids(path, words) if words else {})

    def id(self, token: str) -> int:
        """The id of a token. Raises BundleError if the tokenizer does not know it as one."""
        try:
            return self.words[token] if token in self.words else self.ids[token]
        except KeyError:
            raise BundleError(f"the language model's tokenizer has no token {token}") from None

    def escape(self, text: str) -> str:
        """`text` as plain text: no special token in it. Raises InvalidInput for what is not Unicode text."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as fault:
            raise InvalidInput("prompt: holds half of a surrogate pair, which is no character") from fault
        return escape_specials(text, self._pattern)


def word_ids(tokenizer: Path, words: Iterable[str]) -> dict[str, int]:
    """The id of each word, by the ``tokenizer.json`` given. Raises BundleError if one is more than a token."""
    loaded = Tokenizer.from_file(str(tokenizer))
    found = {word: loaded.encode(word, add_special_tokens=False).ids for word in words}
    for word, ids in found.items():
        if len(ids) != 1:
            raise BundleError(f"{tokenizer}: the word {word!r} is {len(ids)} tokens, not one")
    return {word: ids[0] for word, ids in found.items()}


class AnswerParser:
    """Finds the reasoning's end in a stream of text.

    The reasoning ends at `close`, or, when the model forgot to close it, at any of the tokens in `ends`. Text
    that may still turn out to be the beginning of one of them is held back.
    """

    def __init__(self, close: str, ends: Iterable[str] = ()) -> None:
        self._close = close
        tokens = (close, *ends)
        self._pattern = _any_of(tokens)
        self._beginnings = {token[:length] for token in tokens for length in range(1, len(token))}
        self._longest = max(map(len, tokens)) - 1
        self._held = ""
        self._pieces: list[str] = []
        self.done = False
        """The end was seen; whatever follows is no reasoning."""
        self.closed = False
        """The end was `close`."""
        self.tail = ""
        """What follows the end."""

    @property
    def text(self) -> str:
        """The reasoning so far, without what is held back."""
        return "".join(self._pieces)

    @property
    def tail_tokens(self) -> int:
        """How many special tokens follow the end."""
        return len(self._pattern.findall(self.tail))

    def feed(self, delta: str) -> str:
        """Take the next piece of the stream; returns the reasoning that is certain now, possibly empty."""
        if self.done:
            self.tail += delta
            return ""
        text = self._held + delta
        if match := self._pattern.search(text):
            self._held, self.done, self.closed = "", True, match[0] == self._close
            self.tail = text[match.end() :]
            return self._keep(text[: match.start()])
        certain = len(text) - self._undecided(text)
        self._held = text[certain:]
        return self._keep(text[:certain])

    def finish(self) -> str:
        """The stream is over: returns what was held back, since nothing can complete it any more."""
        held, self._held, self.done = self._held, "", True
        return self._keep(held)

    def _keep(self, text: str) -> str:
        if text:
            self._pieces.append(text)
        return text

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that is a proper beginning of a token."""
        lengths = range(min(len(text), self._longest), 0, -1)
        return next((length for length in lengths if text[-length:] in self._beginnings), 0)


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest first; matches nothing if there are none."""
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")
