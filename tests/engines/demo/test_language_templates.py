"""The template grammar, and that the shipped word lists fit together."""

from __future__ import annotations

import random

import pytest

from engines.demo.language.carriers import grammar
from engines.demo.language.lexicon import article, join, lexicon
from engines.demo.language.phrases import NounPhrase, places
from engines.demo.language.surface import dress
from engines.demo.language.templates import Grammar, TemplateError, tidy
from engines.demo.scenes import COLOURS, KINDS


def texts(source: str, **bindings: str) -> set[str]:
    rules = Grammar([source])
    return {rules.expand("start", random.Random(seed), bindings) for seed in range(200)}


def test_choices_options_rules_and_bindings() -> None:
    source = "start:\n  (a|b) {noun} [c|d]\n  {bound}, e\nnoun:\n  x | y\n"
    assert texts(source, bound="z") == {
        *(f"{first} {noun}{end}" for first in "ab" for noun in "xy" for end in ("", " c", " d")),
        "z, e",
    }


def test_a_bound_value_hides_a_rule() -> None:
    assert texts("start:\n  {noun}\nnoun:\n  x\n", noun="y") == {"y"}


def test_a_weighted_line_is_drawn_more_often() -> None:
    rules = Grammar(["start:\n  *9 often\n  rarely\n"])
    rng = random.Random(1)
    often = sum(rules.expand("start", rng, {}) == "often" for _ in range(2_000))
    assert 0.87 < often / 2_000 < 0.93


@pytest.mark.parametrize(
    "source", ["start:\n  (a|b\n", "start:\n  a)\n", "start:\n  {a b\n", "start:\n  a\nstart:\n  b\n"]
)
def test_broken_templates_are_refused(source: str) -> None:
    with pytest.raises((TemplateError, IndexError)):
        Grammar([source])


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(TemplateError, match="nowhere"):
        Grammar(["start:\n  {nowhere}\n"]).expand("start", random.Random(1), {})


def test_the_shipped_rules_leave_unbound_only_what_prompts_bind() -> None:
    bound = "np obj it its is they all_of all_it obj_is do_it trail obstacle bare key"
    assert grammar().unbound() == frozenset(bound.split())
    assert places().unbound() == frozenset({"anchor", "side", "thing"})


def test_tidy() -> None:
    assert tidy(" a  b , , c ? d .") == "a b, c? d."


def test_every_kind_and_colour_has_names_and_no_name_is_shared() -> None:
    words = lexicon()
    assert tuple(words.kinds) == KINDS
    assert tuple(words.colours) == COLOURS
    for names in (words.kinds, words.colours):
        flat = [name for each in names.values() for name in set(each)]
        assert len(flat) == len(set(flat))
        assert all(each[0] == canonical for canonical, each in names.items())


def test_every_kind_serves_a_purpose_said_in_a_dozen_ways() -> None:
    words = lexicon()
    for kind in KINDS:
        serving = [p for p in words.purposes if kind in p.kinds]
        assert sum(len(p.that) + len(p.use) + len(p.need) + len(p.noun) for p in serving) >= 12, kind
    assert all(set(p.kinds) | set(p.doubtful) <= set(KINDS) for p in words.purposes)


def test_outside_nouns_are_many_and_none_names_a_kind() -> None:
    words = lexicon()
    assert len(set(words.outside)) > 250
    assert len(set(words.outside)) == len(words.outside)
    names = {name for each in words.kinds.values() for name in each}
    assert not names & set(words.outside)
    assert set(words.outside_uses) <= set(words.outside)


@pytest.mark.parametrize(
    ("noun", "plural"),
    [("mug", "mugs"), ("box", "boxes"), ("dish", "dishes"), ("key", "keys"), ("cherry", "cherries"),
     ("knife", "knives"), ("desk lamp", "desk lamps"), ("source of light", "sources of light")],
)  # fmt: skip
def test_plurals(noun: str, plural: str) -> None:
    assert lexicon().plural(noun) == plural


def test_articles_and_lists() -> None:
    assert article("apple") == "an apple"
    assert article("mug") == "a mug"
    assert join(["a"]) == "a"
    assert join(["a", "b", "c"]) == "a, b and c"


def test_noun_phrases_take_adjectives_and_clauses() -> None:
    mug = NounPhrase("red mug", post="on the left")
    assert mug.text("whole", "that is hidden") == "the whole red mug on the left that is hidden"
    both = NounPhrase("", det="", plural=True, parts=(mug, NounPhrase("ball")))
    assert both.text("whole") == "the whole red mug on the left and the whole ball"


def test_dressing_keeps_the_negations() -> None:
    """Slips, contractions and dropped articles must not turn a prompt into its opposite."""
    for seed in range(2_000):
        dressed = dress("do not include the hidden parts of the mug", random.Random(seed)).lower()
        assert any(word in dressed for word in ("do not", "don't", "dont"))
