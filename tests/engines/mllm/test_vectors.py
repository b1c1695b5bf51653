"""The concentration vectors as the client asks for them and reads them."""

from __future__ import annotations

import numpy as np
import pytest

from engines.errors import MllmUnavailable
from engines.mllm.answer import AnswerFormat, SeveralObjects
from tests.engines.mllm.scripted_client import IMAGE, SECONDS, client_of, embeddings, replies


async def test_vectors_come_in_the_objects_order_from_one_request() -> None:
    async with client_of(replies(embeddings([1.0, 2.0], [3.0, 4.0]))) as (client, server):
        vectors = await client.concentrate(IMAGE, "the mug", "behind", ["amodal"], 2, timeout=SECONDS)
    assert vectors["amodal"].dtype == np.float32
    assert vectors["amodal"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    texts = [messages[-1]["content"] for messages in server.seen[0].body["messages"]]  # type: ignore[attr-defined]
    assert texts == [
        "<think>behind</think><AMODAL><REF_POS>",
        "<think>behind</think><AMODAL><REF_POS><REF_POS>",
    ]


async def test_both_mask_types_share_one_request() -> None:
    async with client_of(replies(embeddings([1.0], [2.0], [3.0], [4.0]))) as (client, server):
        vectors = await client.concentrate(IMAGE, "the mug", "", ["modal", "amodal"], 2, timeout=SECONDS)
    assert {kind: rows.tolist() for kind, rows in vectors.items()} == {
        "modal": [[1.0], [2.0]],
        "amodal": [[3.0], [4.0]],
    }
    [exchange] = server.seen
    texts = [messages[-1]["content"] for messages in exchange.body["messages"]]  # type: ignore[attr-defined]
    assert texts[1:3] == ["<think></think><MODAL><REF_POS><REF_POS>", "<think></think><AMODAL><REF_POS>"]


async def test_vectors_that_are_missing_are_the_servers_fault() -> None:
    async with client_of(replies(embeddings([1.0]))) as (client, _):
        with pytest.raises(MllmUnavailable, match="gave 1 of the vectors"):
            await client.concentrate(IMAGE, "p", "", ["modal", "amodal"], 1, timeout=SECONDS)


async def test_several_objects_are_asked_for_and_answered_in_their_own_words() -> None:
    several = SeveralObjects(
        user="{prompt}, {count} times", reference_tail="all {count}: {references}", separator=" "
    )
    answer = AnswerFormat(several=several)
    async with client_of(replies(embeddings([1.0], [2.0])), answer) as (client, server):
        await client.concentrate(IMAGE, "the mug", "", ["modal"], 2, timeout=SECONDS)
    conversations = server.seen[0].body["messages"]
    assert isinstance(conversations, list)
    assert {talk[0]["content"][1]["text"] for talk in conversations} == {"the mug, 2 times"}
    assert [talk[-1]["content"] for talk in conversations] == [
        "<think></think><MODAL>all 2: <REF_POS>",
        "<think></think><MODAL>all 2: <REF_POS> <REF_POS>",
    ]
