"""The client against scripted servers: what it reads into answers, and how every fault comes out."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable

import pytest

from engines.errors import BundleError, DeadlineExceeded, InvalidInput, MllmUnavailable
from engines.events import ReasoningDelta
from engines.mllm.answer import AnswerFormat, AnswerTokens, SeveralObjects
from engines.mllm.client import MllmClient
from engines.mllm.grammar import SpecialTokens
from engines.mllm.results import ReasoningEnd
from tests.engines.mllm.scripted_client import (
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
from tests.engines.mllm.scripted_server import Exchange


async def test_reasoning_streams_until_it_is_closed() -> None:
    events = (chunk(""), chunk("behind"), chunk(" the box</thi"), chunk("nk>", "stop"), "[DONE]")
    async with client_of(streams(*events)) as (client, server):
        deltas, end = await reason(client)
    assert deltas == ["behind", " the box"]
    assert end == ReasoningEnd("behind the box", prompt_tokens=80, reasoning_tokens=9, closed=True)
    body = server.seen[0].body
    assert body["max_completion_tokens"] == 20
    assert set(TOKENS.ids.values()) == set(body["stop_token_ids"])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ((chunk("cut off </th", "length"), "[DONE]"), "cut off </th"),
        ((chunk("no close<|im_end|>", "stop"), "[DONE]"), "no close"),
        ((chunk("at once<AMODAL>", "stop"), "[DONE]"), "at once"),
    ],
)
async def test_reasoning_that_was_not_closed_is_whole_and_says_so(
    events: tuple[object, ...], text: str
) -> None:
    async with client_of(streams(*events)) as (client, _):
        deltas, end = await reason(client)
    assert "".join(deltas) == end.text == text
    assert not end.closed


async def test_a_model_that_spells_a_special_token_in_plain_text_is_stopped_there() -> None:
    left = asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        await exchange.stream(chunk("say <REF"), chunk("_POS> and on"))
        await exchange.until_left()
        left.set()

    async with client_of(reply) as (client, _):
        _, end = await reason(client)
        assert end == ReasoningEnd("say ", prompt_tokens=80, reasoning_tokens=9, closed=False)
        await asyncio.wait_for(left.wait(), SECONDS)


async def test_no_budget_means_no_call() -> None:
    async with client_of(replies()) as (client, server):
        assert await reason(client, budget=0) == ([], ReasoningEnd("", 0, 0, closed=True))
    assert server.seen == []


Leave = Callable[[MllmClient, asyncio.Event], Awaitable[None]]
"""Leaves a stream; the event is set when that has begun."""


async def leave_by_closing(client: MllmClient, begun: asyncio.Event) -> None:
    stream = client.reason(IMAGE, "the mug", 20, timeout=SECONDS)
    assert await anext(stream) == ReasoningDelta("a", tokens=9)
    await stream.aclose()


async def leave_by_cancelling(client: MllmClient, begun: asyncio.Event) -> None:
    task = asyncio.create_task(reason(client))
    await asyncio.wait_for(begun.wait(), SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_deadline(client: MllmClient, begun: asyncio.Event) -> None:
    async with asyncio.timeout(SECONDS):
        while not begun.is_set():  # it may have passed before
            with pytest.raises(DeadlineExceeded):
                async for _ in client.reason(IMAGE, "the mug", 20, timeout=0.3):
                    pass


@pytest.mark.parametrize("leave", [leave_by_closing, leave_by_cancelling, leave_by_deadline])
async def test_leaving_closes_the_connection(leave: Leave) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        await exchange.stream(chunk("a"))
        begun.set()
        await exchange.until_left()
        left.set()

    async with client_of(reply) as (client, _):
        await leave(client, begun)
        await asyncio.wait_for(left.wait(), SECONDS)


TWO = math.log(2.0)


@pytest.mark.parametrize(
    ("tail", "objects"),
    [
        (["<REF_POS>", "<|im_end|>"], 1),
        (["<REF_POS>", "<REF_POS>", "<REF_POS>", "<|im_end|>"], 3),
        (["<REF_POS>"] * 8, 8),
        (["<REF_POS>", "<NO_OBJECT>"], 1),
        (["<NO_OBJECT>", "<|im_end|>"], 0),
    ],
)
async def test_one_call_decides_and_counts(tail: list[str], objects: int) -> None:
    first = position("<AMODAL>", MODAL=-3.0 - TWO, AMODAL=-3.0, REF_POS=-0.1)
    rest = [position(token, **({"REF_POS": -2.0, "NO_OBJECT": -2.0} | {token[1:-1]: -1.0})) for token in tail]
    async with client_of(replies(completion(first, *rest))) as (client, server):
        decision = await client.decide(IMAGE, "the mug", "behind", timeout=SECONDS)
    assert decision.p_modal == pytest.approx(1 / 3)
    assert decision.p_amodal == pytest.approx(2 / 3)
    assert (decision.mask_type, decision.objects) == ("amodal", objects)
    assert (decision.prompt_tokens, decision.tokens) == (80, 1 + len(tail))
    [exchange] = server.seen
    assert exchange.body["messages"][-1]["content"] == "<think>behind</think>"  # type: ignore[index]


async def test_a_model_that_skips_the_decision_is_asked_again_behind_it() -> None:
    first = completion(position("<REF_POS>", MODAL=-3.0, AMODAL=-5.0))
    second = completion(position("<REF_POS>"), position("<REF_POS>"), position("<|im_end|>"))
    async with client_of(replies(first, second)) as (client, server):
        decision = await client.decide(IMAGE, "the mug", "", timeout=SECONDS)
    assert (decision.mask_type, decision.objects, decision.tokens) == ("modal", 2, 4)
    assert server.seen[1].body["messages"][-1]["content"] == "<think></think><MODAL>"  # type: ignore[index]


@pytest.mark.parametrize(("likelier", "objects"), [("REF_POS", 1), ("NO_OBJECT", 0)])
async def test_a_model_that_stops_early_is_taken_at_the_likelier_answer(likelier: str, objects: int) -> None:
    logprobs = {"REF_POS": -2.0, "NO_OBJECT": -2.0, likelier: -1.0}
    body = completion(position("<|im_end|>", **logprobs))
    async with client_of(replies(body)) as (client, _):
        decision = await client.decide(IMAGE, "the mug", "", mask_type="modal", timeout=SECONDS)
    assert (decision.p_modal, decision.p_amodal, decision.objects) == (1.0, 0.0, objects)


async def test_what_the_caller_names_is_not_asked() -> None:
    body = completion(position("<MODAL>", MODAL=-1.0, AMODAL=-9999.0))
    async with client_of(replies(body)) as (client, server):
        known = await client.decide(IMAGE, "p", "", mask_type="amodal", objects=2, timeout=SECONDS)
        assert server.seen == []
        counted = await client.decide(IMAGE, "p", "", objects=3, timeout=SECONDS)
    assert (known.mask_type, known.confidence, known.objects, known.tokens) == ("amodal", 1.0, 2, 0)
    assert (counted.p_modal, counted.objects) == (1.0, 3)
    assert server.seen[0].body["max_completion_tokens"] == 1
    assert server.seen[0].body["allowed_token_ids"] == [TOKENS.id("<MODAL>"), TOKENS.id("<AMODAL>")]


async def test_a_model_that_does_not_decide_counts_objects_of_the_type_that_is_named() -> None:
    answer = AnswerFormat(tokens=AnswerTokens(modal=None, amodal=None, no_object=None))
    async with client_of(replies(completion(position("<|im_end|>"))), answer) as (client, _):
        assert (await client.decide(IMAGE, "p", "", mask_type="modal", timeout=SECONDS)).objects == 1


async def test_special_tokens_of_the_user_and_of_the_reasoning_are_broken() -> None:
    async with client_of(replies(embeddings([1.0]))) as (client, server):
        await client.concentrate(IMAGE, "a </think> b", "c <REF_POS> d", ["modal"], 1, timeout=SECONDS)
    [[user, assistant]] = server.seen[0].body["messages"]  # type: ignore[misc]
    assert user["content"][1]["text"] == "a < /think> b"  # type: ignore[has-type]
    assert assistant["content"] == "<think>c < REF_POS> d</think><MODAL><REF_POS>"  # type: ignore[has-type]


def image_part(exchange: Exchange) -> dict[str, object]:
    [[user, _]] = exchange.body["messages"]  # type: ignore[misc]
    part: dict[str, object] = user["content"][0]  # type: ignore[has-type]
    return part


@pytest.mark.parametrize("status", [400, 500, 503])
async def test_an_image_is_named_only_after_its_data_and_sent_again_when_the_server_dropped_it(
    status: int,
) -> None:
    refusal = {"error": {"message": "Cache miss for image at index 0 but data is not provided."}}
    answers = [
        (embeddings([1.0]), 200),
        (embeddings([2.0]), 200),
        (refusal, status),
        (embeddings([3.0]), 200),
    ]

    async def reply(exchange: Exchange) -> None:
        await exchange.respond(*answers.pop(0))

    async with client_of(reply) as (client, server):
        for expected in (1.0, 2.0, 3.0):
            vectors = await client.concentrate(IMAGE, "p", "", ["modal"], 1, timeout=SECONDS)
            assert vectors["modal"].tolist() == [[expected]]
    with_data = [image_part(exchange)["image_url"] is not None for exchange in server.seen]
    assert with_data == [True, False, False, True]
    assert {image_part(exchange)["uuid"] for exchange in server.seen} == {"sha256:a"}


async def call_reason(client: MllmClient) -> object:
    return await reason(client)


async def call_decide(client: MllmClient) -> object:
    return await client.decide(IMAGE, "p", "", timeout=SECONDS)


async def call_warm(client: MllmClient) -> object:
    await client.warm(IMAGE, "p", timeout=SECONDS)
    return None


async def call_concentrate(client: MllmClient) -> object:
    return await client.concentrate(IMAGE, "p", "", ["modal"], 1, timeout=SECONDS)


CALLS = [call_reason, call_decide, call_warm, call_concentrate]
Call = Callable[[MllmClient], Awaitable[object]]


@pytest.mark.parametrize("call", CALLS)
async def test_a_server_that_is_away(call: Call, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with MllmClient(ANSWER, TOKENS, (url,), (url,)) as client:
        with pytest.raises(MllmUnavailable) as fault:
            await call(client)
        assert fault.value.retry_after > 0
        assert not any(role.healthy for role in await client.health())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [500, 503, 404, 400])
async def test_a_server_that_refuses_is_named_with_its_reason(call: Call, status: int) -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.respond({"error": {"message": "engine is dead"}}, status)

    async with client_of(reply) as (client, _):
        with pytest.raises(MllmUnavailable, match=rf"{status}.*engine is dead"):
            await call(client)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("param", ["input_tokens", "max_tokens"])
async def test_a_text_too_long_for_the_model_is_the_callers_fault(call: Call, param: str) -> None:
    message = "This model's maximum context length is 2048 tokens. However, ..."

    async def reply(exchange: Exchange) -> None:
        await exchange.respond({"error": {"message": message, "param": param}}, 400)

    async with client_of(reply) as (client, _):
        with pytest.raises(InvalidInput, match="too long"):
            await call(client)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("content", [b"<html>", b"{}", b'{"data": [], "choices": [], "usage": {}}'])
async def test_a_server_that_is_not_vllm(call: Call, content: bytes) -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.respond(content)

    async with client_of(reply) as (client, _):
        with pytest.raises(MllmUnavailable):
            await call(client)


@pytest.mark.parametrize("call", CALLS)
async def test_a_server_that_hangs_up(call: Call) -> None:
    async def reply(exchange: Exchange) -> None:
        exchange.writer.transport.abort()

    async with client_of(reply) as (client, _):
        with pytest.raises(MllmUnavailable):
            await call(client)


@pytest.mark.parametrize(
    "events",
    [
        (chunk("a"),),
        (chunk("a"), {"error": {"message": "EngineCore died", "code": 500}}),
        (chunk("a"), "no json"),
        (chunk("a"), "[DONE]"),
    ],
    ids=["cut", "error", "garbage", "unfinished"],
)
async def test_a_stream_that_breaks_off(events: tuple[object, ...]) -> None:
    async with client_of(streams(*events)) as (client, _):
        with pytest.raises(MllmUnavailable):
            await reason(client)


async def test_a_server_that_does_not_answer_in_time() -> None:
    left = asyncio.Event()

    async def reply(exchange: Exchange) -> None:
        await exchange.until_left()
        left.set()

    async with client_of(reply) as (client, _):
        with pytest.raises(DeadlineExceeded):
            await client.concentrate(IMAGE, "p", "", ["modal"], 1, timeout=0.2)
        await asyncio.wait_for(left.wait(), SECONDS)


async def test_health_of_a_server_that_is_up_and_of_one_that_is_ill() -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.respond({}, 200 if len(server.seen) == 1 else 503)

    async with client_of(reply) as (client, server):
        health = await client.health()
    assert [role.role for role in health] == ["reason", "concentrate"]
    assert sorted(role.healthy for role in health) == [False, True]
    assert [role.detail for role in health if not role.healthy] == [f"{server.url} answers 503"]


def test_a_tokenizer_without_the_answers_tokens_is_refused() -> None:
    with pytest.raises(BundleError, match="<REF_POS>"):
        MllmClient(ANSWER, SpecialTokens({"<MODAL>": 1}), ("http://127.0.0.1:1",), ("http://127.0.0.1:1",))


async def test_only_a_newline_ends_a_line_of_a_stream() -> None:
    said = "left\u2028of\u2029the\x85box"
    async with client_of(streams(chunk(said), chunk("</think>", "stop"), "[DONE]")) as (client, _):
        _, end = await reason(client)
    assert end.text == said


async def test_a_server_that_gives_no_probabilities_is_at_fault() -> None:
    async with client_of(replies(completion(position("<MODAL>")))) as (client, _):
        with pytest.raises(MllmUnavailable, match="probabilities"):
            await client.decide(IMAGE, "the mug", "so", objects=1, timeout=SECONDS)


async def test_the_decision_is_asked_in_the_conversation_of_the_reasoning() -> None:
    answer = AnswerFormat(several=SeveralObjects(user="{prompt} {count}", reference_tail="{references}"))
    reply = replies(completion(position("<MODAL>", MODAL=-0.1, AMODAL=-3.0)))
    async with client_of(reply, answer) as (client, server):
        await client.decide(IMAGE, "the mugs", "so", objects=2, timeout=SECONDS)
    assert '"the mugs 2"' in json.dumps(server.seen[0].body["messages"])
