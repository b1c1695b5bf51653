"""One vLLM server: an image that it has mislaid is sent once more, and states that are none are refused."""

from __future__ import annotations

import asyncio
import base64
from contextlib import aclosing

import pytest

from engines.errors import MllmUnavailable
from engines.mllm.image import MllmImage
from engines.mllm.role import VllmRole
from engines.mllm.wire import Generation, Pooling, PoolingAnswer, Prefill
from tests.engines.mllm.scripted_server import Exchange, scripted_server

PREFILL = Prefill(MllmImage("sha256:a", "data:image/png;base64,AAAA", 28, 28), "the mug", "<think>")
FAILED = {"error": {"message": "Internal server error", "code": 500}}
BEGUN = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
ENDED = {"choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]}


def deadline() -> float:
    return asyncio.get_running_loop().time() + 5.0


async def text(role: VllmRole) -> str:
    async with aclosing(role.stream(Generation(PREFILL, {}), deadline())) as chunks:
        return "".join([chunk.text async for chunk in chunks])


async def test_a_stream_that_fails_at_once_is_begun_once_more_with_the_data() -> None:
    answers: list[tuple[object, ...]] = [(BEGUN, ENDED), (FAILED,), (BEGUN, ENDED)]

    async def reply(exchange: Exchange) -> None:
        await exchange.stream(*answers.pop(0))

    async with scripted_server(reply) as server:
        role = VllmRole("reason", server.url)
        assert [await text(role), await text(role)] == ["ab", "ab"]
        await role.aclose()
    assert ["AAAA" in str(exchange.body) for exchange in server.seen] == [True, False, True]


@pytest.mark.parametrize(("events", "tries"), [((FAILED,), 2), ((BEGUN, FAILED), 1)])
async def test_one_that_fails_again_or_later_has_failed(events: tuple[object, ...], tries: int) -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.stream(*events)

    async with scripted_server(reply) as server:
        role = VllmRole("reason", server.url)
        with pytest.raises(MllmUnavailable, match="Internal server error"):
            await text(role)
        await role.aclose()
    assert len(server.seen) == tries


async def test_a_retryable_failure_is_tried_again_though_the_image_was_sent() -> None:
    state = base64.b64encode(bytes(8)).decode()
    answers: list[tuple[object, int]] = [
        (FAILED, 503),
        ({"data": [{"index": 0, "object": "embedding", "embedding": state}]}, 200),
    ]

    async def reply(exchange: Exchange) -> None:
        await exchange.respond(*answers.pop(0))

    async with scripted_server(reply) as server:
        role = VllmRole("concentrate", server.url)
        answer = await role.call(Pooling((PREFILL,)), PoolingAnswer, deadline())
        await role.aclose()
    assert answer.vectors().tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("states", [(b"?",), (bytes(3),), (bytes(4), bytes(8))])
async def test_states_that_are_none_are_the_servers_fault(states: tuple[bytes, ...]) -> None:
    encoded = ["?" if state == b"?" else base64.b64encode(state).decode() for state in states]
    data = [{"index": i, "object": "embedding", "embedding": state} for i, state in enumerate(encoded)]

    async def reply(exchange: Exchange) -> None:
        await exchange.respond({"data": data})

    async with scripted_server(reply) as server:
        role = VllmRole("concentrate", server.url)
        with pytest.raises(MllmUnavailable, match="does not talk like vLLM"):
            await role.call(Pooling((PREFILL,)), PoolingAnswer, deadline())
        await role.aclose()
