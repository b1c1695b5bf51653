"""The surface of a prompt: capitals, full stops, contractions, American spelling and slips of the finger."""

from __future__ import annotations

import random
import re

_CONTRACTIONS = {
    "do not": "don't", "does not": "doesn't", "must not": "mustn't", "should not": "shouldn't", "is not": "isn't",
    "cannot": "can't", "can not": "can't", "did not": "didn't", "would not": "wouldn't", "need not": "needn't",
    "are not": "aren't", "I would": "I'd", "I am": "I'm", "let us": "let's", "we are": "we're", "it is": "it's",
    "what is": "what's", "that is": "that's",
}  # fmt: skip
_AMERICAN = {
    "colour": "color", "coloured": "colored", "colours": "colors", "centre": "center", "grey": "gray",
    "lorry": "truck", "catalogue": "catalog",
}  # fmt: skip
_CONTRACTED = re.compile(rf"(?<!late )\b({'|'.join(_CONTRACTIONS)})(?= \w)")
_BRITISH = re.compile(rf"\b({'|'.join(_AMERICAN)})\b")
_LONG_WORD = re.compile(r"[a-z]{6,}")
_SENTENCE_START = re.compile(r"(^|[.?] )([a-z])")


def dress(text: str, rng: random.Random) -> str:
    """The prompt as somebody might type it. ASCII in, ASCII out."""
    if rng.random() < 0.4:
        text = _CONTRACTED.sub(lambda m: _CONTRACTIONS[m[0]], text)
        if rng.random() < 0.12:
            text = text.replace("n't", "nt")
    if rng.random() < 0.4:
        text = _BRITISH.sub(lambda m: _AMERICAN[m[0]], text)
    if rng.random() < 0.04:
        text = " ".join(w for w in text.split() if w not in ("the", "a", "an"))
    if rng.random() < 0.03:
        text = _slip(text, rng)
    if rng.random() < 0.012:
        text = _stress(text, rng)
    return _case(_punctuation(text, rng), rng)


def _slip(text: str, rng: random.Random) -> str:
    """Swaps two inner letters of a long word, or loses or doubles one."""
    words = list(_LONG_WORD.finditer(text))
    if not words:
        return text
    match = rng.choice(words)
    at = rng.randrange(match.start() + 1, match.end() - 2)
    pair = text[at : at + 2]
    return text[:at] + rng.choice((pair[::-1], pair[0], pair[0] + pair)) + text[at + 2 :]


def _stress(text: str, rng: random.Random) -> str:
    """One word in capitals."""
    words = text.split()
    at = rng.randrange(len(words))
    return " ".join((*words[:at], words[at].upper(), *words[at + 1 :]))


def _punctuation(text: str, rng: random.Random) -> str:
    way = rng.random()
    if text.endswith(("?", ".")):
        return text if way < 0.8 else text[:-1]
    if way < 0.12:
        return text + "!"
    return text + "." if way < 0.65 else text


def _case(text: str, rng: random.Random) -> str:
    way = rng.random()
    if way < 0.012:
        return text.upper()
    if way < 0.28:
        return text.lower()
    return _SENTENCE_START.sub(lambda m: m.group(1) + m.group(2).upper(), text)
