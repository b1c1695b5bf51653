"""Words: names of kinds and colours, what kinds are for, nouns outside the scenes, plurals and articles."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Purpose:
    """What some kinds are for, and how people say it. `doubtful` kinds might serve it too."""

    name: str
    kinds: tuple[str, ...]
    doubtful: tuple[str, ...]
    why: str
    that: tuple[str, ...]
    use: tuple[str, ...]
    need: tuple[str, ...]
    noun: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """All word lists. The first name of a kind or colour is the canonical one; repetition weighs it."""

    kinds: Mapping[str, tuple[str, ...]]
    colours: Mapping[str, tuple[str, ...]]
    things: tuple[str, ...]
    irregular: Mapping[str, str]
    purposes: tuple[Purpose, ...]
    outside: tuple[str, ...]
    outside_uses: Mapping[str, tuple[str, ...]]
    adjectives: tuple[str, ...]

    def kind(self, kind: str, rng: random.Random) -> str:
        return rng.choice(self.kinds[kind])

    def colour(self, colour: str, rng: random.Random) -> str:
        return rng.choice(self.colours[colour])

    def plural(self, noun: str) -> str:
        """The plural of a noun or of a phrase that ends with one ("desk lamp" -> "desk lamps")."""
        if " of " in noun or " to " in noun:
            first, rest = noun.split(" ", 1)
            return f"{self._plural_word(first)} {rest}"
        front, _, last = noun.rpartition(" ")
        return f"{front} {self._plural_word(last)}".strip()

    def _plural_word(self, word: str) -> str:
        if word in self.irregular:
            return self.irregular[word]
        if word.endswith(("s", "x", "z", "ch", "sh")):
            return word + "es"
        if word.endswith("y") and word[-2] not in "aeiou":
            return word[:-1] + "ies"
        return word + "s"


def article(noun: str) -> str:
    """The indefinite article and the noun: "an apple"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def join(texts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


@cache
def lexicon() -> Lexicon:
    """The word lists of this package, read once."""
    kinds, purposes, outside = _read("kinds.toml"), _read("purposes.toml"), _read("outside.toml")
    return Lexicon(
        kinds={kind: tuple(names) for kind, names in kinds["kinds"].items()},
        colours={colour: tuple(names) for colour, names in kinds["colours"].items()},
        things=tuple(kinds["things"]["names"]),
        irregular=kinds["irregular"],
        purposes=tuple(_purpose(name, entry) for name, entry in purposes.items()),
        outside=tuple(word.replace("-", " ") for word in outside["nouns"].split()),
        outside_uses={noun: tuple(uses) for noun, uses in outside["uses"].items()},
        adjectives=tuple(outside["adjectives"].split()),
    )


def _purpose(name: str, entry: Mapping[str, Any]) -> Purpose:
    lists = {key: tuple(entry[key]) for key in ("kinds", "doubtful", "that", "use", "need", "noun")}
    return Purpose(name=name, why=entry["why"], **lists)


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files(__package__) / "words" / name).read_text(encoding="ascii"))
