"""Answers that the model writes behind its reasoning, and the decision's probability from a state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from engines.errors import BundleError
from engines.events import MaskType
from engines.mllm.answer import MAX_OBJECTS, AnswerTokens
from engines.mllm.grammar import AnswerParser, SpecialTokens
from engines.mllm.results import Decision, Written
from engines.mllm.written import OUTPUT, DecisionHead, WrittenAnswer
from tests.engines.mllm.test_client import (
    ANSWER,
    IMAGE,
    SECONDS,
    TOKENS,
    chunk,
    client_of,
    completion,
    embeddings,
    position,
    reason,
    replies,
    streams,
)

READER = WrittenAnswer(AnswerTokens())
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
    assert len(answer) <= READER.longest


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


@pytest.mark.parametrize(
    "events",
    [
        (chunk("so</think><MODAL><REF_POS>", "length"),),
        (chunk("so</think>", "length"),),
        (chunk("so</think>", "stop"),),
        (chunk("so</think> and I go on"), chunk(" to say what nobody asked" * 9), chunk("for", "stop")),
        (chunk("so</think><MODAL>" + "<REF_POS>" * 9), chunk("<REF_POS>" * 99, "length")),
    ],
)
async def test_an_answer_that_is_broken_off_is_none(events: tuple[object, ...]) -> None:
    async with client_of(streams(*events, "[DONE]"), head=HEAD) as (client, _):
        _, end = await reason(client)
    assert (end.text, end.closed, end.written) == ("so", True, None)


async def test_a_decision_in_the_middle_of_the_reasoning_ends_it() -> None:
    events = (chunk("so<MODAL>"), chunk("<REF_POS><|im_end|>", "stop"))
    async with client_of(streams(*events), head=HEAD) as (client, _):
        _, end = await reason(client)
    assert (end.text, end.closed, end.written) == ("so", False, None)


async def decide(*bodies: object, **options: object) -> tuple[Decision, list[dict[str, object]]]:
    """What is decided where the servers give these answers, and what they were asked."""
    async with client_of(replies(*bodies), head=HEAD) as (client, server):
        decision = await client.decide(IMAGE, "the mug", "behind", timeout=SECONDS, **options)  # type: ignore[arg-type]
    return decision, [exchange.body for exchange in server.seen]


async def test_of_a_written_decision_only_the_probability_is_asked() -> None:
    decision, [body] = await decide(embeddings([1.0, 2.0]), written=Written("amodal", 3))
    assert decision.p_amodal == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert decision.p_modal == pytest.approx(1 - decision.p_amodal)
    assert (decision.mask_type, decision.objects, decision.source) == ("amodal", 3, "model")
    [[_, assistant]] = body["messages"]  # type: ignore[misc]
    assert assistant["content"] == "<think>behind</think>"  # type: ignore[has-type]


async def test_how_many_the_caller_wants_goes_before_how_many_are_written() -> None:
    decision, _ = await decide(embeddings([2.0, 1.0]), written=Written("modal", 1), objects=4)
    assert (decision.mask_type, decision.objects) == ("modal", 4)


async def test_where_the_servers_disagree_the_one_that_wrote_is_asked() -> None:
    asked = completion(position("<AMODAL>", MODAL=-3.0, AMODAL=-1.0), position("<NO_OBJECT>", NO_OBJECT=-0.1))
    decision, bodies = await decide(embeddings([2.0, 1.9]), asked, written=Written("amodal", 3))
    assert (decision.mask_type, decision.objects) == ("amodal", 0)
    assert len(bodies) == 2


async def test_a_written_answer_of_the_type_wanted_is_not_asked_about() -> None:
    decision, bodies = await decide(written=Written("modal", 2), mask_type="modal")
    assert (decision.p_modal, decision.objects, bodies) == (1.0, 2, [])


async def test_of_another_type_the_objects_are_counted_again() -> None:
    counted = completion(position("<REF_POS>"), position("<|im_end|>"))
    decision, [body] = await decide(counted, written=Written("modal", 2), mask_type="amodal")
    assert (decision.mask_type, decision.objects) == ("amodal", 1)
    assert body["messages"][-1]["content"] == ANSWER.with_decision("behind", "amodal")  # type: ignore[index]


def stored(folder: Path, tensors: Mapping[str, torch.Tensor], name: str = "model.safetensors") -> None:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)


TIED = "model.language_model.embed_tokens.weight"
MATRIX = torch.arange(24, dtype=torch.float32).reshape(8, 3).sin()
STATE = np.array([0.5, -1.0, 2.0], dtype=np.float32)


def probability(matrix: torch.Tensor, mask_type: MaskType) -> float:
    ids = [TOKENS.id("<MODAL>"), TOKENS.id("<AMODAL>")]
    both = torch.softmax(matrix[ids].float() @ torch.from_numpy(STATE), 0)
    return float(both[int(mask_type == "amodal")])


@pytest.mark.parametrize("name", [OUTPUT, TIED, "model.embed_tokens.weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_probability_is_that_of_the_output_matrix(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    stored(tmp_path, {name: MATRIX.to(dtype), "model.norm.weight": torch.ones(3)})
    head = DecisionHead.load(tmp_path, AnswerTokens(), TOKENS)
    assert head is not None
    assert head.p_modal(STATE) == pytest.approx(probability(MATRIX.to(dtype), "modal"), abs=1e-6)
    assert head.p_modal(1e6 * STATE) in (0.0, pytest.approx(1.0))


@pytest.mark.parametrize("files", [("a", "b"), ("b", "a")])
def test_an_output_matrix_of_its_own_goes_before_the_input_embedding(
    tmp_path: Path, files: tuple[str, str]
) -> None:
    stored(tmp_path, {TIED: MATRIX.flip(0)}, f"{files[0]}.safetensors")
    stored(tmp_path, {OUTPUT: MATRIX}, f"{files[1]}.safetensors")
    head = DecisionHead.load(tmp_path, AnswerTokens(), TOKENS)
    assert head is not None
    assert head.p_modal(STATE) == pytest.approx(probability(MATRIX, "modal"), abs=1e-6)


def test_without_such_a_matrix_or_tokens_there_is_no_head(tmp_path: Path) -> None:
    stored(tmp_path, {"model.norm.weight": torch.ones(3)})
    assert DecisionHead.load(tmp_path, AnswerTokens(), TOKENS) is None
    silent = AnswerTokens(modal=None, amodal=None, no_object=None)
    assert DecisionHead.load(tmp_path / "nowhere", silent, SpecialTokens({})) is None


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BundleError, match="weights cannot be read"):
        DecisionHead.load(tmp_path, AnswerTokens(), TOKENS)
