"""The answer's grammar: every split of the stream, every end, and special tokens that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from engines.errors import BundleError, InvalidInput
from engines.mllm.grammar import AnswerParser, SpecialTokens

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<think>",
    "</think>",
    "<MODAL>",
    "<AMODAL>",
    "<REF_POS>",
    "<NO_OBJECT>",
)
CLOSE = "</think>"
ENDS = tuple(token for token in SPECIALS if token != CLOSE)

letters = st.sampled_from("ab <>/|_thinkREFPOSMODAL\n é")
fragments = st.one_of(
    letters, st.sampled_from(SPECIALS).flatmap(lambda t: st.sampled_from([t[:-1], t[1:], t]))
)
texts = st.lists(fragments, max_size=30).map("".join)
plain = texts.filter(lambda text: not any(token in text for token in SPECIALS))


def parse(pieces: list[str]) -> tuple[AnswerParser, list[str]]:
    parser = AnswerParser(CLOSE, ENDS)
    out = [parser.feed(piece) for piece in pieces]
    out.append(parser.finish())
    return parser, out


def split(text: str, cuts: list[int]) -> list[str]:
    places = sorted({min(cut, len(text)) for cut in cuts})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@given(reasoning=plain, tail=texts, cuts=st.lists(st.integers(0, 200), max_size=40))
@example(reasoning="a < b </thin", tail="<AMODAL><REF_POS><|im_end|>", cuts=list(range(60)))
def test_a_closed_reasoning_survives_every_split(reasoning: str, tail: str, cuts: list[int]) -> None:
    parser, out = parse(split(reasoning + CLOSE + tail, cuts))
    assert "".join(out) == parser.text == reasoning
    assert parser.closed


@given(
    reasoning=plain, end=st.sampled_from(ENDS), tail=texts, cuts=st.lists(st.integers(0, 200), max_size=40)
)
def test_a_missing_close_ends_at_the_next_special_token(
    reasoning: str, end: str, tail: str, cuts: list[int]
) -> None:
    parser, out = parse(split(reasoning + end + tail, cuts))
    assert "".join(out) == parser.text == reasoning
    assert parser.done
    assert not parser.closed


@given(reasoning=plain, cuts=st.lists(st.integers(0, 200), max_size=40))
def test_a_length_stop_gives_everything_that_was_held_back(reasoning: str, cuts: list[int]) -> None:
    parser, out = parse(split(reasoning, cuts))
    assert "".join(out) == parser.text == reasoning
    assert not parser.closed


def test_the_beginning_of_a_close_is_held_back_and_let_go() -> None:
    parser = AnswerParser(CLOSE, ENDS)
    assert parser.feed("behind </th") == "behind "
    assert parser.feed("e box") == "</the box"
    assert parser.feed(" </think") == " "
    assert not parser.done
    assert parser.feed("><MODAL>") == ""
    assert parser.done
    assert parser.closed
    assert parser.feed("more") == ""
    assert parser.text == "behind </the box "


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Bytes and the special tokens, nothing learned: what matters here is which special ids appear."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(sorted(alphabet))}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return tokenizer


@pytest.fixture(scope="module")
def specials(tokenizer: Tokenizer) -> SpecialTokens:
    return SpecialTokens({added.content: i for i, added in tokenizer.get_added_tokens_decoder().items()})


@given(text=st.one_of(texts, st.text()))
@example(text="<RE<REF_POS>F_POS> <<|im_end|>|im_end|> </thi</think>nk> <|im_<|im_end|>end|>")
@example(text="<<<MODAL><AMODAL>>>")
def test_a_users_text_never_becomes_a_special_token(
    text: str, tokenizer: Tokenizer, specials: SpecialTokens
) -> None:
    escaped = specials.escape(text)
    around = tokenizer.encode(f"<|vision_end|>{escaped}<|im_end|>").tokens
    assert [token for token in around if token in SPECIALS] == ["<|vision_end|>", "<|im_end|>"]
    assert (around[0], around[-1]) == ("<|vision_end|>", "<|im_end|>")


@given(text=texts)
def test_escaping_only_adds_spaces_and_only_where_a_token_was(text: str) -> None:
    tokens = SpecialTokens(dict.fromkeys(SPECIALS, 0))
    escaped = tokens.escape(text)
    assert escaped.replace(" ", "") == text.replace(" ", "")
    assert tokens.escape(escaped) == escaped
    if not any(token in text for token in SPECIALS):
        assert escaped == text
    else:
        assert len(escaped) > len(text)


def test_overlapping_tokens_are_broken_too() -> None:
    tokens = SpecialTokens({"<a>": 0, "a><b": 1, "< a>": 2})
    escaped = tokens.escape("<a><b")
    assert not any(token in escaped for token in tokens.ids)


def test_a_tokenizer_of_whitespace_and_single_characters_leaves_text_alone() -> None:
    assert SpecialTokens({"  ": 0, "#": 1}).escape("a  # b") == "a  # b"
    assert SpecialTokens({}).escape("<think>") == "<think>"


def test_half_a_surrogate_pair_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="surrogate"):
        SpecialTokens({}).escape("cup \ud83d")


def test_tokens_come_from_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": "<MODAL>", "id": 7}]}))
    tokens = SpecialTokens.load(tmp_path)
    assert tokens.id("<MODAL>") == 7
    with pytest.raises(BundleError, match="<AMODAL>"):
        tokens.id("<AMODAL>")


@pytest.mark.parametrize("content", [None, "no json", "{}", '{"added_tokens": [1]}'])
def test_a_tokenizer_without_a_list_of_tokens_is_a_bundle_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        SpecialTokens.load(tmp_path)
