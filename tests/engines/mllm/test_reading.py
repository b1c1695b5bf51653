"""Prompts that are read: where their tokens are, and every token's state as the client asks for it and reads it."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from engines.errors import BundleError, InvalidInput, MllmUnavailable
from engines.mllm.answer import AnswerFormat, AnswerTokens
from engines.mllm.client import MllmClient
from engines.mllm.grammar import SpecialTokens
from engines.mllm.image import Bitmap, MllmImage
from engines.mllm.reading import ReadingFormat, TextReader
from tests.engines.mllm.scripted_client import SECONDS, replies
from tests.engines.mllm.scripted_server import Exchange, Reply, scripted_server

FORM = ReadingFormat(most=4)
WORDS = ("system", "You", "are", "a", "helpful", "assistant", ".", "user", "the", "red", "mug", "(", ")")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
PLAIN = ("<tool_call>", "<video_here>")
IMAGE = MllmImage("sha256:a", Bitmap("data:image/bmp;base64,AAAA"), 56, 84)  # 2 × 3 tokens
LENGTH = (
    9 + 1 + 1 + 1 + 6 + 1 + 3 + 1
)  # system's turn, then user's: beginning, name, <vision_start>, image, …


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="("))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in PLAIN])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def reader_of(folder: Path) -> TextReader:
    return TextReader.load(folder, FORM, 28)


def test_places_are_of_plain_text_and_of_the_last_end(folder: Path) -> None:
    places = reader_of(folder).places("the red mug", IMAGE)
    assert places.length == LENGTH
    assert places.text.tolist() == [1, 2, 3, 4, 5, 6, 7, 10, 19, 20, 21]
    assert places.end == LENGTH - 1


def test_what_stands_for_pictures_is_no_text_though_it_is_not_special(folder: Path) -> None:
    places = reader_of(folder).places("<tool_call> <video_here> mug", IMAGE)
    assert places.text.tolist()[-2:] == [19, 21]


def test_a_prompt_that_is_too_long_is_named(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^prompt: 5 tokens, but this model reads no more than 4"):
        reader_of(folder).places("the red red red mug", IMAGE)


def test_a_tokenizer_without_its_marks_is_refused(folder: Path) -> None:
    form = FORM.model_copy(update={"image": "mug"})
    with pytest.raises(BundleError, match="mug is no special token"):
        TextReader.load(folder, form, 28)


@pytest.mark.parametrize("text", ["no place", "{prompt}<|im_end|>", "<|im_end|><|image_pad|>{prompt}"])
def test_a_format_without_its_fields_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="text must hold"):
        ReadingFormat(text=text)


def answer(tokens: int) -> dict[str, object]:
    states = np.arange(tokens * 2, dtype="<f4").reshape(tokens, 2)
    data = {"index": 0, "object": "pooling", "data": base64.b64encode(states.tobytes()).decode()}
    return {"data": [data], "usage": {"prompt_tokens": tokens}}


async def read(folder: Path, reply: Reply, prompt: str) -> tuple[list[float], list[float], dict[str, object]]:
    """The first numbers of the states of a prompt's text, the state of its end, and the request."""
    form = AnswerFormat(
        tokens=AnswerTokens(reference=None, modal=None, amodal=None, no_object=None), reading=FORM
    )
    tokens = SpecialTokens.load(folder)

    async def well(exchange: Exchange) -> None:
        await (exchange.respond({}) if exchange.path == "/health" else reply(exchange))

    async with (
        scripted_server(well) as server,
        MllmClient(form, tokens, (), (server.url,), reader=reader_of(folder)) as client,
    ):
        states = await client.read(IMAGE, prompt, timeout=SECONDS)
        assert [role.role for role in await client.health()] == ["concentrate"]
        [exchange] = (one for one in server.seen if one.path == "/pooling")
        assert states.prompt_tokens == LENGTH
        return states.text[:, 0].tolist(), states.end.tolist(), exchange.body


async def test_states_are_asked_for_in_one_prefill(folder: Path) -> None:
    text, end, body = await read(folder, replies(answer(LENGTH)), "the red mug")
    assert text == [2.0 * place for place in (1, 2, 3, 4, 5, 6, 7, 10, 19, 20, 21)]
    assert end == [2.0 * (LENGTH - 1), 2.0 * (LENGTH - 1) + 1]
    messages = body["messages"]
    assert isinstance(messages, list)
    assert [message["content"][1] for message in messages] == [{"type": "text", "text": "the red mug"}]
    assert body["use_activation"] is False


async def test_another_number_of_tokens_is_the_servers_fault(folder: Path) -> None:
    with pytest.raises(MllmUnavailable, match=rf"read {LENGTH - 1} tokens in place of {LENGTH}"):
        await read(folder, replies(answer(LENGTH - 1)), "the red mug")


async def test_numbers_that_are_no_states_are_the_servers_fault(folder: Path) -> None:
    broken = answer(LENGTH) | {"usage": {"prompt_tokens": LENGTH + 1}}
    with pytest.raises(MllmUnavailable, match="does not talk like vLLM"):
        await read(folder, replies(broken), "the red mug")
