"""What the reasoning says over and over is a token each, in the shipped tokenizer and in one trained anew."""

from __future__ import annotations

import random
import re

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import Split

from engines.demo.language import Query, ask
from engines.demo.scenes import render_scene
from engines.demo.tokenizer import PHRASES, STOCK, VOCABULARY, WORDS, train_tokenizer
from server.settings import DEMO_BUNDLE


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    rng = random.Random(4)
    return [query for seed in range(1, 121) for query in ask(render_scene(seed, longest=160), rng, 12)]


@pytest.fixture(scope="module", params=["shipped", "trained"])
def tokenizer(request: pytest.FixtureRequest, queries: list[Query]) -> Tokenizer:
    if request.param == "shipped":
        return Tokenizer.from_file(str(DEMO_BUNDLE / "mllm" / "tokenizer.json"))
    return train_tokenizer(text for query in queries for text in (query.prompt, query.reasoning))


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def test_every_phrase_is_one_token(tokenizer: Tokenizer, queries: list[Query]) -> None:
    said = {phrase for query in queries for phrase in re.findall(PHRASES, query.reasoning)}
    assert len(said) > 80
    for phrase in said:
        assert len(_ids(tokenizer, f"x{phrase} ")) == len(_ids(tokenizer, "x ")) + 1, phrase


def test_the_parts_of_an_account_have_the_tokens_of_the_whole(
    tokenizer: Tokenizer, queries: list[Query]
) -> None:
    for query in queries:
        account = query.account
        first, *parts = filter(None, (account.wanted, account.overview, account.finding, account.covering))
        tokens = _ids(tokenizer, first) + [t for part in parts for t in _ids(tokenizer, f" {part}")]
        assert tokens == _ids(tokenizer, account.text)


def test_a_third_less_is_written_than_with_a_token_a_word(tokenizer: Tokenizer, queries: list[Query]) -> None:
    words = Split(Regex(WORDS), "isolated")
    least = sum(len(words.pre_tokenize_str(query.reasoning)) for query in queries)
    assert sum(len(_ids(tokenizer, query.reasoning)) for query in queries) < 0.69 * least


def test_any_text_comes_back(tokenizer: Tokenizer, queries: list[Query]) -> None:
    for text in (*(query.reasoning for query in queries), "at the top, a8 Ünï → 猫\n\n is wanted. In view:"):
        assert tokenizer.decode(_ids(tokenizer, text)) == text


def test_what_is_said_is_what_the_phrases_say(queries: list[Query]) -> None:
    said = " ".join(query.reasoning for query in queries)
    assert [phrase for phrase in STOCK if phrase not in said] == []


def test_the_vocabulary_has_room(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() <= VOCABULARY
