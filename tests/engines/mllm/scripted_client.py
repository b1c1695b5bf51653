"""A client whose servers are scripted, and what they can be scripted to answer."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import numpy as np

from engines.mllm.answer import AnswerFormat
from engines.mllm.client import MllmClient
from engines.mllm.grammar import SpecialTokens
from engines.mllm.image import Bitmap, MllmImage
from engines.mllm.results import ReasoningEnd
from engines.mllm.written import DecisionHead
from tests.engines.mllm.scripted_server import Exchange, Reply, ScriptedServer, scripted_server

ANSWER = AnswerFormat()
NAMES = (
    "<think>",
    "</think>",
    "<MODAL>",
    "<AMODAL>",
    "<REF_POS>",
    "<NO_OBJECT>",
    "<|im_end|>",
    "<|image_pad|>",
)
TOKENS = SpecialTokens({name: number for number, name in enumerate(NAMES)})
IMAGE = MllmImage("sha256:a", Bitmap("data:image/bmp;base64,AAAA"), 28, 28)
SECONDS = 5.0


@asynccontextmanager
async def client_of(
    reply: Reply, answer: AnswerFormat = ANSWER, head: DecisionHead | None = None
) -> AsyncIterator[tuple[MllmClient, ScriptedServer]]:
    """A client whose two roles are one scripted server."""
    async with scripted_server(reply) as server:
        urls = (server.url,)
        async with MllmClient(answer, TOKENS, urls, urls, head=head) as client:
            yield client, server


def chunk(text: str, finish: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 80, "completion_tokens": 9}}


def position(token: str, **logprobs: float) -> dict[str, object]:
    tops = [{"token": f"<{name}>", "logprob": value} for name, value in logprobs.items()]
    return {"token": token, "logprob": -0.1, "top_logprobs": tops}


def completion(*positions: dict[str, object]) -> dict[str, object]:
    usage = {"prompt_tokens": 80, "completion_tokens": len(positions)}
    return {"choices": [{"index": 0, "logprobs": {"content": list(positions)}}], "usage": usage}


def embeddings(*rows: list[float]) -> dict[str, object]:
    encoded = [base64.b64encode(np.array(row, dtype="<f4").tobytes()).decode() for row in rows]
    data = [{"index": i, "object": "embedding", "embedding": row} for i, row in enumerate(encoded)]
    return {"data": data[::-1]}


async def reason(client: MllmClient, budget: int = 20) -> tuple[list[str], ReasoningEnd]:
    deltas: list[str] = []
    async with aclosing(client.reason(IMAGE, "the mug", budget, timeout=SECONDS)) as stream:
        async for item in stream:
            if isinstance(item, ReasoningEnd):
                return deltas, item
            deltas.append(item.text)
    raise AssertionError("no end")


def replies(*bodies: object) -> Reply:
    """Answer with these, one after the other."""
    waiting = list(bodies)

    async def reply(exchange: Exchange) -> None:
        await exchange.respond(waiting.pop(0))

    return reply


def streams(*events: object) -> Reply:
    async def reply(exchange: Exchange) -> None:
        await exchange.stream(*events)

    return reply
