"""Phrase templates: a small context-free grammar read from text, compiled once and sampled fast.

A grammar file holds rules. A rule is a name and a colon in the first column, then indented lines of
alternatives, separated by new lines or by `|`. Inside an alternative
    {name}   is another rule or a value bound at sampling time,
    (a|b)    is one of several,
    [a|b]    is one of several or nothing,
and a line that begins with `*3 ` weighs three times as much as the others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files

Bindings = Mapping[str, str]
_Node = Callable[[random.Random, Bindings, list[str]], None]
_LOOSE = re.compile(r" ([,.?;:])")
_TOKEN = re.compile(r"[{}()\[\]|]|[^{}()\[\]|]+")


class TemplateError(ValueError):
    """A grammar file does not parse, or names a rule that nobody defines."""


class Grammar:
    """Rules by name. `expand` draws one text; the same generator state always gives the same text."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._rules: dict[str, _Node] = {}
        self._used: set[str] = set()
        for source in sources:
            self._read(source)

    @classmethod
    def load(cls, *names: str) -> Grammar:
        """The grammar of the named files in this package's `words` folder."""
        folder = files(__package__) / "words"
        return cls((folder / name).read_text(encoding="ascii") for name in names)

    def expand(self, rule: str, rng: random.Random, bindings: Bindings) -> str:
        """One text drawn from `rule`, single spaced. Raises TemplateError for a name that nothing defines."""
        out: list[str] = []
        self._visit(rule, rng, bindings, out)
        return tidy("".join(out))

    def unbound(self) -> frozenset[str]:
        """Names used in the templates that no rule defines: they have to be bound when sampling."""
        return frozenset(self._used - self._rules.keys())

    def _visit(self, name: str, rng: random.Random, bindings: Bindings, out: list[str]) -> None:
        value = bindings.get(name)
        if value is not None:
            out.append(value)
            return
        rule = self._rules.get(name)
        if rule is None:
            raise TemplateError(f"no rule and no value named {name!r}")
        rule(rng, bindings, out)

    def _read(self, source: str) -> None:
        name, lines = "", list[str]()
        for line in [*source.splitlines(), "end:"]:
            if not line.strip() or line.startswith("#"):
                continue
            if line[0] != " ":
                if name in self._rules:
                    raise TemplateError(f"the rule {name!r} is defined twice")
                if name:
                    self._rules[name] = self._rule(lines)
                name, lines = line.strip().removesuffix(":"), []
            else:
                lines.append(line.strip())

    def _rule(self, lines: list[str]) -> _Node:
        nodes: list[_Node] = []
        for line in lines:
            weight, text = (int(line[1]), line[2:].strip()) if line.startswith("*") else (1, line)
            tokens = _TOKEN.findall(text)
            for node in self._alternatives(tokens, closing=""):
                nodes.extend([node] * weight)
        return _one_of(nodes)

    def _alternatives(self, tokens: list[str], closing: str) -> list[_Node]:
        """Consumes `tokens` up to `closing` and returns the alternatives found there."""
        alternatives: list[_Node] = []
        sequence: list[_Node] = []
        while tokens:
            token = tokens.pop(0)
            if token == closing:
                break
            if token == "|":
                alternatives.append(_sequence(sequence))
                sequence = []
            else:
                sequence.append(self._part(token, tokens))
        else:
            if closing:
                raise TemplateError(f"a template lacks its closing {closing!r}")
        return [*alternatives, _sequence(sequence)]

    def _part(self, token: str, tokens: list[str]) -> _Node:
        if token == "(":
            return _one_of(self._alternatives(tokens, ")"))
        if token == "[":
            return _maybe(_one_of(self._alternatives(tokens, "]")))
        if token == "{":
            name, end = tokens.pop(0), tokens.pop(0)
            if end != "}":
                raise TemplateError(f"a template lacks the closing brace of {name!r}")
            self._used.add(name)
            return lambda rng, bindings, out: self._visit(name, rng, bindings, out)
        if token in ")]}":
            raise TemplateError(f"a template has a stray {token!r}")
        return lambda rng, bindings, out: out.append(token)


def tidy(text: str) -> str:
    """Single spaces, none before punctuation, and no comma twice."""
    return _LOOSE.sub(r"\1", " ".join(text.split())).replace(",,", ",")


def _sequence(nodes: list[_Node]) -> _Node:
    if len(nodes) == 1:
        return nodes[0]

    def visit(rng: random.Random, bindings: Bindings, out: list[str]) -> None:
        for node in nodes:
            node(rng, bindings, out)

    return visit


def _one_of(nodes: list[_Node]) -> _Node:
    if len(nodes) == 1:
        return nodes[0]
    count = len(nodes)
    return lambda rng, bindings, out: nodes[int(rng.random() * count)](rng, bindings, out)


def _maybe(node: _Node) -> _Node:
    def visit(rng: random.Random, bindings: Bindings, out: list[str]) -> None:
        if rng.random() < 0.5:
            node(rng, bindings, out)

    return visit
