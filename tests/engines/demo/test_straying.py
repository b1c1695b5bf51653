"""Lists with slips, and what should have been written at each step."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from engines.demo.language import ask, straying
from engines.demo.language.facts import SQUARES
from engines.demo.language.straying import stray
from engines.demo.scenes import render_scene
from engines.demo.ship import BUNDLE
from engines.demo.training.answers import AnswerPacker, PackedScene

WORDS = ("red mug", "blue box wanted", "green hat possible", "black key found", "white ball")
Items = list[tuple[str, str]]

overviews = st.lists(st.sampled_from(SQUARES), min_size=1, max_size=len(WORDS)).map(
    lambda squares: text(list(zip(sorted(squares), WORDS, strict=False)))
)


def text(items: Items) -> str:
    return f"In view: {', '.join(f'{square} {words}' for square, words in items)}."


def items(overview: str) -> Items:
    listed = overview.removeprefix("In view: ").removesuffix(".").split(", ")
    return [(item[:2], item[3:]) for item in listed]


@given(overviews, st.integers())
def test_at_each_step_the_first_thing_not_yet_named_is_meant(overview: str, seed: int) -> None:
    told, meant = (items(each) for each in stray(overview, random.Random(seed)))
    left = items(overview)
    for (_, named), (square, words) in zip(told, meant, strict=True):
        assert square == left[0][0]
        assert words == named
        left.remove(next(item for item in left if item[1] == named))
    assert not left


@given(overviews, st.integers())
def test_a_slip_is_one_square_off_and_on_the_board(overview: str, seed: int) -> None:
    true = {words: square for square, words in items(overview)}
    for square, words in items(stray(overview, random.Random(seed))[0]):
        assert square in SQUARES
        assert sum(abs(ord(a) - ord(b)) for a, b in zip(square, true[words], strict=True)) <= 1


@given(overviews, st.integers())
def test_no_slip_lands_on_another_things_square(overview: str, seed: int) -> None:
    true = {words: square for square, words in items(overview)}
    for square, words in items(stray(overview, random.Random(seed))[0]):
        assert square == true[words] or square not in true.values()


def test_without_slips_both_are_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straying, "ASTRAY", 0.0)
    monkeypatch.setattr(straying, "LATE", 0.0)
    overview = "In view: b3 red mug, c1 blue box wanted."
    assert stray(overview, random.Random(0)) == (overview, overview)
    assert stray("", random.Random(0)) == ("", "")


def test_what_is_passed_over_is_asked_for_until_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(straying, "ASTRAY", 0.0)
    monkeypatch.setattr(straying, "LATE", 0.5)
    overview = "In view: b3 red mug, c1 blue box, e5 white ball."
    pairs = {stray(overview, random.Random(seed)) for seed in range(40)}
    assert (
        "In view: c1 blue box, e5 white ball, b3 red mug.",
        "In view: b3 blue box, b3 white ball, b3 red mug.",
    ) in pairs


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    return Tokenizer.from_file(str(BUNDLE / "mllm" / "tokenizer.json"))


def test_the_trainer_shows_slips_and_asks_for_the_truth(shipped: Tokenizer) -> None:
    [query] = ask(render_scene(4, longest=200), random.Random(4), 1)
    packer = AnswerPacker(shipped)
    lists = [_lists(shipped, packer.pack([query], [], [], (2, 2), random.Random(seed))) for seed in range(12)]
    assert len({told for told, _ in lists}) > 1
    for told, asked in lists:
        first = query.account.overview.split()[2]
        assert asked.split()[2] == first, "the first thing asked for is the first there is, whatever was told"
        assert sorted(words for _, words in items(told)) == sorted(
            words for _, words in items(query.account.overview)
        )


def _lists(tokenizer: Tokenizer, packed: PackedScene) -> tuple[str, str]:
    """The list in the sequence, and what is to be predicted there."""
    return _first_list(tokenizer.decode(packed.ids.tolist())), _first_list(
        tokenizer.decode(packed.targets.tolist())
    )


def _first_list(written: str) -> str:
    return f"In view:{written.partition('In view:')[2].partition('.')[0]}."
