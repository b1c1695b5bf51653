"""Answers that the model writes behind its reasoning, and the decision's probability from a state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file

from engines.errors import BundleError, MllmUnavailable
from engines.events import MaskType
from engines.mllm.answer import MAX_OBJECTS, AnswerFormat, AnswerTokens, SeveralObjects
from engines.mllm.grammar import AnswerParser, SpecialTokens
from engines.mllm.results import Decision, Written
from engines.mllm.written import OUTPUT, DecisionHead, WrittenAnswer
from tests.engines.mllm.scripted_client import (
    ANSWER,
    IMAGE,
    SECONDS,
    TOKENS,
    chunk,
    client_of,
    embeddings,
    reason,
    replies,
    streams,
)
from tests.engines.mllm.scripted_server import Exchange

READER = WrittenAnswer(ANSWER)
HEAD = DecisionHead(np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32))
"""The first number of a state speaks for the visible part, the second for the complete shape."""


@given(
    st.sampled_from(["<MODAL>", "<AMODAL>"]),
    st.integers(0, MAX_OBJECTS),
    st.lists(st.integers(1, 200)),
)
def test_an_answer_is_read_however_it_is_cut(decision: str, objects: int, cuts: list[int]) -> None:
    answer = decision + ("<REF_POS>" * objects or "<NO_OBJECT>") + "<|im_end|>"
    text = "it is < behind</think>" + answer
    parser, last = AnswerParser("</think>", TOKENS.ids), 0
    for cut in [*sorted({min(cut, len(text)) for cut in cuts}), len(text)]:
        parser.feed(text[last:cut])
        last = cut
    assert (parser.text, parser.tail) == ("it is < behind", answer)
    assert parser.tail_tokens == 2 + max(objects, 1)
    assert READER.read(parser.tail) == Written("modal" if decision == "<MODAL>" else "amodal", objects)
    assert all(READER.begins(answer[:length]) for length in range(len(answer) + 1))


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "<MODAL>",
        "<MODAL><REF_POS>",
        "<MODAL><|im_end|>",
        "<REF_POS><|im_end|>",
        "<MODAL><NO_OBJECT><REF_POS><|im_end|>",
        "<MODAL> <REF_POS><|im_end|>",
        "<MODAL>" + "<REF_POS>" * (MAX_OBJECTS + 1) + "<|im_end|>",
        "<MODAL><AMODAL><REF_POS><|im_end|>",
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(tail: str) -> None:
    assert READER.read(tail) is None


@pytest.mark.parametrize("tail", [" and", "<REF_POS>", "<NO", "<MODAL>" + "<REF_POS>" * 20])
def test_what_becomes_no_answer_is_not_waited_for(tail: str) -> None:
    assert not READER.begins(tail)


@pytest.mark.parametrize(
    "answer",
    [
        AnswerFormat(closing="</think>\n"),
        AnswerFormat(decision_tail="\n{decision}"),
        AnswerFormat(reference_tail=" at {references}"),
        AnswerFormat(tokens=AnswerTokens(modal=None, amodal=None, no_object=None)),
        AnswerFormat(several=SeveralObjects(user="{prompt} {count}", reference_tail="{references}")),
    ],
)
def test_an_answer_with_more_than_tokens_in_it_is_asked_for(tmp_path: Path, answer: AnswerFormat) -> None:
    assert ANSWER.writes
    assert not answer.writes
    assert DecisionHead.load(tmp_path / "nowhere", answer, SpecialTokens({})) is None


async def test_the_answer_behind_the_reasoning_is_no_reasoning() -> None:
    events = (chunk("behind it.</th"), chunk("ink><AMODAL><REF_POS>"), chunk("<REF_POS><|im_end|>", "stop"))
    async with client_of(streams(*events, "[DONE]"), head=HEAD) as (client, server):
        deltas, end = await reason(client)
    assert "".join(deltas) == end.text == "behind it."
    assert end.written == Written("amodal", 2)
    assert (end.closed, end.reasoning_tokens) == (True, 9 - 4)
    stops = set(server.seen[0].body["stop_token_ids"])  # type: ignore[call-overload]
    within = ("</think>", "<MODAL>", "<AMODAL>", "<REF_POS>", "<NO_OBJECT>")
    assert stops == set(TOKENS.ids.values()) - {TOKENS.id(token) for token in within}
    assert server.seen[0].body["stop"] == []


@pytest.mark.parametrize("tail", ["<MODAL><REF_POS>", "", "<MODAL><RE"])
async def test_an_answer_that_is_cut_short_is_none(tail: str) -> None:
    async with client_of(streams(chunk(f"so</think>{tail}", "length"), "[DONE]"), head=HEAD) as (client, _):
        _, end = await reason(client)
    assert (end.text, end.closed, end.written) == ("so", True, None)


@pytest.mark.parametrize(
    "events",
    [
        (chunk("so</think> and I go on"),),
        (chunk("so</think>"), chunk(" and I go on")),
        (chunk("so</think><MODAL>" + "<REF_POS>" * 5), chunk("<REF_POS>" * 9)),
    ],
)
async def test_a_model_that_does_not_answer_is_not_heard_out(events: tuple[object, ...]) -> None:
    left = asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        await exchange.stream(*events)
        await exchange.until_left()
        left.set()

    async with client_of(reply, head=HEAD) as (client, _):
        _, end = await reason(client)
        await asyncio.wait_for(left.wait(), SECONDS)
    assert (end.text, end.closed, end.written) == ("so", True, None)


async def test_a_decision_in_the_middle_of_the_reasoning_ends_it() -> None:
    events = (chunk("so<MODAL>"), chunk("<REF_POS><|im_end|>", "stop"))
    async with client_of(streams(*events), head=HEAD) as (client, _):
        _, end = await reason(client)
    assert (end.text, end.closed, end.written) == ("so", False, None)


Concluded = tuple[Decision, dict[MaskType, NDArray[np.float32]]] | None


async def conclude(
    states: object, written: Written, types: list[MaskType], objects: int
) -> tuple[Concluded, list[str]]:
    """What follows from these states, and after which texts they were asked for."""
    async with client_of(replies(states), head=HEAD) as (client, server):
        concluded = await client.conclude(
            IMAGE, "the mug", "behind", written, types, objects, timeout=SECONDS
        )
    [exchange] = server.seen
    return concluded, [messages[-1]["content"] for messages in exchange.body["messages"]]  # type: ignore[attr-defined]


async def test_one_call_gives_the_probability_and_the_vectors() -> None:
    states = embeddings([1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.0])
    concluded, texts = await conclude(states, Written("amodal", 2), ["modal", "amodal"], 2)
    assert concluded is not None
    decision, vectors = concluded
    assert decision.p_amodal == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert decision.p_modal == pytest.approx(1 - decision.p_amodal)
    assert (decision.mask_type, decision.objects, decision.source) == ("amodal", 2, "model")
    assert {kind: rows.tolist() for kind, rows in vectors.items()} == {
        "modal": [[3.0, 4.0], [5.0, 6.0]],
        "amodal": [[7.0, 8.0], [9.0, 10.0]],
    }
    assert texts == [
        "<think>behind</think>",
        "<think>behind</think><MODAL><REF_POS>",
        "<think>behind</think><MODAL><REF_POS><REF_POS>",
        "<think>behind</think><AMODAL><REF_POS>",
        "<think>behind</think><AMODAL><REF_POS><REF_POS>",
    ]


async def test_of_what_is_not_there_only_the_probability_is_asked() -> None:
    concluded, texts = await conclude(embeddings([3.0, 1.0]), Written("modal", 0), ["modal"], 0)
    assert concluded is not None
    assert (concluded[0].mask_type, concluded[0].objects) == ("modal", 0)
    assert texts == ["<think>behind</think>"]


async def test_where_the_servers_disagree_nothing_is_concluded() -> None:
    concluded, _ = await conclude(embeddings([2.0, 1.9], [0.0, 0.0]), Written("amodal", 1), ["amodal"], 1)
    assert concluded is None


@pytest.mark.parametrize("state", [[1.0], [1.0, 2.0, 3.0], [float("nan"), 1.0], [float("inf"), 1.0]])
async def test_states_of_another_model_are_no_decision(state: list[float]) -> None:
    with pytest.raises(MllmUnavailable, match="no state of 2 finite numbers: is it this bundle's"):
        await conclude(embeddings(state), Written("modal", 0), ["modal"], 0)


async def test_fewer_states_than_asked_for_are_a_fault() -> None:
    with pytest.raises(MllmUnavailable, match="gave 1 of the vectors"):
        await conclude(embeddings([2.0, 1.0]), Written("modal", 1), ["modal"], 1)


def stored(
    folder: Path, tensors: Mapping[str, torch.Tensor], name: str = "model.safetensors", *, tied: bool = False
) -> None:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    (folder / "config.json").write_text(json.dumps({"text_config": {"tie_word_embeddings": tied}}))


TIED = "model.language_model.embed_tokens.weight"
MATRIX = torch.arange(24, dtype=torch.float32).reshape(8, 3).sin()
STATE = np.array([0.5, -1.0, 2.0], dtype=np.float32)


def p_modal(matrix: torch.Tensor) -> float:
    ids = [TOKENS.id("<MODAL>"), TOKENS.id("<AMODAL>")]
    return float(torch.softmax(matrix[ids].float() @ torch.from_numpy(STATE), 0)[0])


@pytest.mark.parametrize("name", [OUTPUT, TIED, "model.embed_tokens.weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_probability_is_that_of_the_output_matrix(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    stored(tmp_path, {name: MATRIX.to(dtype), "model.norm.weight": torch.ones(3)}, tied=name != OUTPUT)
    head = DecisionHead.load(tmp_path, ANSWER, TOKENS)
    assert head is not None
    assert head.p_modal(STATE) == pytest.approx(p_modal(MATRIX.to(dtype)), abs=1e-6)
    assert head.p_modal(1e6 * STATE) in (pytest.approx(0.0), pytest.approx(1.0))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("files", [("a", "b"), ("b", "a")])
def test_the_configuration_says_which_matrix_it_is(
    tmp_path: Path, files: tuple[str, str], tied: bool
) -> None:
    stored(tmp_path, {TIED: MATRIX.flip(0)}, f"{files[0]}.safetensors", tied=tied)
    stored(tmp_path, {OUTPUT: MATRIX}, f"{files[1]}.safetensors", tied=tied)
    head = DecisionHead.load(tmp_path, ANSWER, TOKENS)
    assert head is not None
    assert head.p_modal(STATE) == pytest.approx(p_modal(MATRIX.flip(0) if tied else MATRIX), abs=1e-6)


def test_without_such_a_matrix_there_is_no_head(tmp_path: Path) -> None:
    stored(tmp_path, {TIED: MATRIX, "lm_head.qweight": torch.ones(3)})
    assert DecisionHead.load(tmp_path, ANSWER, TOKENS) is None


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    stored(tmp_path, {OUTPUT: MATRIX})
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BundleError, match="weights cannot be read"):
        DecisionHead.load(tmp_path, ANSWER, TOKENS)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        DecisionHead.load(tmp_path, ANSWER, TOKENS)
