"""What goes over the wire to vLLM's OpenAI-compatible servers, and the part of their answers that is read."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from engines.mllm.image import MllmImage, Payload

CONTINUE: Mapping[str, object] = {"add_generation_prompt": False, "continue_final_message": True}
"""The last message is the assistant's text so far; the model goes on from its last character."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What of its image goes with a call's first prefill, and with its others; without it the image is only named."""

    first: Payload | None = None
    others: Payload | None = None

    @classmethod
    def with_each(cls, payload: Payload) -> Carried:
        """All of it with every prefill."""
        return cls(payload, payload)


@dataclass(frozen=True, slots=True)
class Prefill:
    """An image, the user's text and the assistant's text so far; special tokens in both texts take effect."""

    image: MllmImage
    user: str
    assistant: str

    def messages(self, payload: Payload | None) -> list[dict[str, object]]:
        """The conversation. Without its payload the image is only named: the server must have seen it before."""
        kind = self.image.content.kind
        image = {"type": kind, kind: payload, "uuid": self.image.digest}
        text = {"type": "text", "text": self.user}
        return [
            {"role": "user", "content": [image, text]},
            {"role": "assistant", "content": self.assistant},
        ]


@dataclass(frozen=True, slots=True)
class Generation:
    """A chat completion that continues one prefill."""

    prefill: Prefill
    options: Mapping[str, object]
    path: str = "/v1/chat/completions"

    @property
    def image(self) -> MllmImage:
        """The image the call is about."""
        return self.prefill.image

    def body(self, image: Carried) -> dict[str, object]:
        """The request's JSON. Decoding is greedy, so that one request has one answer."""
        return {
            "messages": self.prefill.messages(image.first),
            "temperature": 0.0,
            "skip_special_tokens": False,
            **CONTINUE,
            **self.options,
        }


@dataclass(frozen=True, slots=True)
class Pooling:
    """A batch of prefills of one image; the answer is the last token's state of each."""

    prefills: tuple[Prefill, ...]
    path: str = "/v1/embeddings"

    @property
    def image(self) -> MllmImage:
        """The image the call is about."""
        return self.prefills[0].image

    def body(self, image: Carried) -> dict[str, object]:
        """The request's JSON: states as the model has them, not normalised, float32 in base64."""
        first, *others = self.prefills
        batch = [first.messages(image.first), *(prefill.messages(image.others) for prefill in others)]
        encoding = {"encoding_format": "base64", "embed_dtype": "float32", "endianness": "little"}
        return {"messages": batch, "use_activation": False, **encoding, **CONTINUE}


@dataclass(frozen=True, slots=True)
class Reading:
    """A prefill of an image and the user's text alone; the answer is every token's state."""

    image: MllmImage
    user: str
    path: str = "/pooling"

    def body(self, image: Carried) -> dict[str, object]:
        """The request's JSON: states as the model has them, not normalised, float32 in base64."""
        messages = Prefill(self.image, self.user, "").messages(image.first)[:1]
        encoding = {"encoding_format": "base64", "embed_dtype": "float32", "endianness": "little"}
        return {"messages": messages, "use_activation": False, "add_generation_prompt": False, **encoding}


Call = Generation | Pooling | Reading


class Usage(BaseModel):
    """Token counts; the prompt's include the image's."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """The two calls' tokens; what both read counts once."""
        read = max(self.prompt_tokens, other.prompt_tokens)
        return Usage(prompt_tokens=read, completion_tokens=self.completion_tokens + other.completion_tokens)


class _TokenLogprob(BaseModel):
    token: str
    logprob: float


class PositionLogprobs(_TokenLogprob):
    """The token chosen at one position, and the log-probabilities of the tokens that were asked for."""

    top_logprobs: list[_TokenLogprob]

    def of(self, token: str) -> float:
        """The log-probability of one of the tokens asked for; minus infinity if it is not among them."""
        return next((top.logprob for top in self.top_logprobs if top.token == token), -math.inf)


class _Logprobs(BaseModel):
    content: Annotated[list[PositionLogprobs], Field(min_length=1)]


class _Choice(BaseModel):
    logprobs: _Logprobs


class Completion(BaseModel):
    """A whole chat completion of which nothing but its end is of interest."""

    usage: Usage


class ChatAnswer(Completion):
    """A whole chat completion whose log-probabilities were asked for."""

    choices: Annotated[list[_Choice], Field(min_length=1)]

    @property
    def positions(self) -> list[PositionLogprobs]:
        """The generated tokens, in order."""
        return self.choices[0].logprobs.content


class _Delta(BaseModel):
    content: str | None = None


class _ChunkChoice(BaseModel):
    delta: _Delta
    finish_reason: str | None = None


class ErrorBody(BaseModel):
    """What vLLM says about a call it refuses."""

    message: str
    param: str | None = None


class Refusal(BaseModel):
    """The JSON around an error."""

    error: ErrorBody


class ChatChunk(BaseModel):
    """One server-sent event of a streamed chat completion; `error` when the server failed on the way."""

    choices: list[_ChunkChoice] = []
    usage: Usage | None = None
    error: ErrorBody | None = None

    @property
    def text(self) -> str:
        """The text this event adds."""
        return (self.choices[0].delta.content or "") if self.choices else ""

    @property
    def finished(self) -> bool:
        """Whether generation ended with this event."""
        return bool(self.choices) and self.choices[0].finish_reason is not None


def _state(text: str) -> NDArray[np.float32]:
    """A state that came as float32 in base64. Raises ValueError."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")


class _Embedding(BaseModel):
    index: int
    object: Literal["embedding"]
    embedding: Annotated[Any, BeforeValidator(_state)]


class PoolingAnswer(BaseModel):
    """The states of a batch of prefills."""

    data: Annotated[list[_Embedding], Field(min_length=1)]

    def vectors(self) -> NDArray[np.float32]:
        """The last tokens' states, float32 [K, D], in the batch's order."""
        rows = sorted(self.data, key=lambda row: row.index)
        return np.stack([row.embedding for row in rows])

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if len({row.embedding.size for row in self.data}) > 1:
            raise ValueError("the states have different lengths")
        return self


class _States(BaseModel):
    data: Annotated[Any, BeforeValidator(_state)]


class ReadingAnswer(BaseModel):
    """The states of all tokens of a prefill."""

    data: Annotated[list[_States], Field(min_length=1, max_length=1)]
    usage: Usage

    def states(self) -> NDArray[np.float32]:
        """Every token's state, float32 [T, D]."""
        values: NDArray[np.float32] = self.data[0].data
        return values.reshape(self.usage.prompt_tokens, -1)

    @model_validator(mode="after")
    def _one_for_each_token(self) -> Self:
        tokens, numbers = self.usage.prompt_tokens, self.data[0].data.size
        if tokens < 1 or numbers < 1 or numbers % tokens:
            raise ValueError(f"{numbers} numbers are no states of {tokens} tokens")
        return self


async def lines_of(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The lines of a stream of server-sent events, which only a newline ends, but for those that are empty.

    httpx's own `aiter_lines` also cuts at what else Unicode calls the end of a line, inside vLLM's JSON, too.
    """
    begun = b""
    async for piece in response.aiter_bytes():
        *lines, begun = (begun + piece).split(b"\n")
        for line in lines:
            if full := line.removesuffix(b"\r"):
                yield full
    if begun:
        yield begun
