"""The whole server with a language model of random weights: every answer has as many tokens as it is to have."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from PIL import Image

from engines.bundles import Bundle
from engines.mllm.image import prepare_image
from engines.mllm.launcher import VllmServers
from engines.mllm.role import VllmRole
from engines.mllm.vllm_config import VllmConfig
from engines.mllm.wire import Generation, Prefill
from engines.vision.runtimes import RuntimeName
from loadtests.bench.systems import serve_command
from loadtests.gpu.lines import Printer, Setting
from loadtests.gpu.shapes import Precision, Shape
from loadtests.load.questions import Picture, as_new, demo_pictures
from loadtests.soak import gateway
from server.client import SegmentClient
from server.events import DoneEvent, DraftEvent, ReasoningDeltaEvent

START_SECONDS = 1200.0
STREAM_SECONDS = 120.0
FIRST_SCENE = 95_000_000
PHOTO = (1024, 768)
WARM_UP = 3
STANDARD = 100
"""Reasoning tokens of an answer where nothing else is said."""
LONGEST = 4096  # tokens of a sequence
QUANTISED = (
    "--quantization",
    "fp8_per_channel",
    "--quantization-config",
    json.dumps({"ignore": ["visual*"]}),
)
"""The layers' matrices; the image tower's sizes are no multiples of what fp8 arithmetic takes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: so many requests for a figure, answers of so many tokens, so many clients at once.

    `bandwidth` is the memory's, in TB/s.
    """

    requests: int = 8
    tokens: tuple[int, ...] = (32, 64, STANDARD, 128)
    clients: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    bandwidth: float = 4.8


@dataclass(frozen=True, slots=True)
class Answered:
    """Milliseconds from a request to its first reasoning, its first draft and its end; NaN for what did not come."""

    reasoning: float
    draft: float
    whole: float


def flags(precision: Precision, prefix_cache: bool) -> tuple[str, ...]:
    """vLLM's flags for a setting; weights are made up."""
    quantised = QUANTISED if precision == "fp8" else ()
    return ("--load-format", "dummy", *quantised, *(() if prefix_cache else ("--no-enable-prefix-caching",)))


@asynccontextmanager
async def served(
    path: Path, setting: Setting, config: VllmConfig, vision: RuntimeName, most: int, logs: Path
) -> AsyncIterator[tuple[VllmRole, SegmentClient]]:
    """Both vLLM servers by the launcher and a gateway in front of them, ready, for up to `most` clients.

    Raises:
        EngineError: the bundle or an engine cannot be used.
        SystemExit: the gateway ended before it was ready.
    """
    bundle = await asyncio.to_thread(Bundle.load, path)
    config = config.model_copy(update={"flags": flags(setting.precision, setting.prefix_cache)})
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(VllmServers(config, bundle.mllm_path, logs, bundle.roles))
        await servers.wait_ready(START_SECONDS)
        role = VllmRole("reason", servers.reason_url)
        stack.push_async_callback(role.aclose)
        command = serve_command(path, servers, "--vision", vision, "--max-in-flight", str(most))
        _, url = await stack.enter_async_context(gateway(command))
        yield role, await stack.enter_async_context(SegmentClient(url))


class Trial:
    """One setting's figures, printed as they come. Every request has an image of its own unless it is said."""

    def __init__(
        self,
        shape: Shape,
        setting: Setting,
        plan: Plan,
        printer: Printer,
        role: VllmRole,
        client: SegmentClient,
    ) -> None:
        self._shape = shape
        self._setting = setting
        self._plan = plan
        self._printer = printer
        self._role = role
        self._client = client
        self._marks = 0

    async def run(self) -> None:
        """All figures. Raises `SegmentFailed` and `EngineError`."""
        asked = await asyncio.to_thread(photos, self._plan.requests)
        for picture in asked[:WARM_UP]:
            await self._answer(picture, drafts=1)
        await self._tokens(asked)
        await self._answers(asked)
        await self._again(asked)
        for clients in self._plan.clients:
            await self._crowd(asked, clients)

    async def _tokens(self, asked: Sequence[Picture]) -> None:
        """vLLM alone: the first token, and each one after it against what the memory's bandwidth allows."""
        found = [
            await token_times(self._role, self._shape, self._new(one), one.prompt(0), max(self._plan.tokens))
            for one in asked
        ]
        least = self._shape.token_ms(self._setting.precision, self._plan.bandwidth)
        self._figure("ttft_vllm", [first for first, _ in found])
        self._figure(
            "token",
            [each for _, each in found],
            limit=round(least, 3),
            bytes=self._shape.bytes_read(self._setting.precision),
            tb_per_second=self._plan.bandwidth,
        )

    async def _answers(self, asked: Sequence[Picture]) -> None:
        """Whole answers of each length, one client."""
        for tokens in self._plan.tokens:
            found = [await self._answer(one, tokens=tokens) for one in asked]
            self._figure(f"answer_{tokens}", [one.whole for one in found])
            if tokens == STANDARD:
                self._figure("ttft", [one.reasoning for one in found])

    async def _again(self, asked: Sequence[Picture]) -> None:
        """A second prompt on an image, and first drafts."""
        new, second, known = [], [], []
        for one in asked:
            image = self._new(one)
            new.append(await self._answer(one, image, drafts=1))
            second.append(await self._answer(one, image, number=1))
            known.append(await self._answer(one, image, number=2, drafts=1))
        self._figure("second_prompt", [one.whole for one in second])
        self._figure("first_draft_new", [one.draft for one in new])
        self._figure("first_draft_known", [one.draft for one in known])

    async def _crowd(self, asked: Sequence[Picture], clients: int) -> None:
        """So many clients, each of which asks again as soon as it is answered."""
        count = max(self._plan.requests, 2 * clients)
        waiting = iter(range(count))

        async def client() -> list[Answered]:
            return [await self._answer(asked[number % len(asked)]) for number in waiting]

        began = time.perf_counter()
        found = chain.from_iterable(await asyncio.gather(*(client() for _ in range(clients))))
        rate = count / (time.perf_counter() - began)
        self._figure("clients", [one.whole for one in found], clients=clients, per_second=round(rate, 3))

    async def _answer(
        self,
        picture: Picture,
        image: bytes | None = None,
        *,
        number: int = 0,
        tokens: int = STANDARD,
        drafts: int = 0,
    ) -> Answered:
        options: dict[str, object] = {"objects": 1, "max_reasoning_tokens": tokens, "drafts": drafts}
        return await answered(self._client, image or self._new(picture), picture.prompt(number), options)

    def _new(self, picture: Picture) -> bytes:
        self._marks += 1
        return as_new(picture.data, f"{os.getpid()}.{self._marks}")

    def _figure(self, name: str, values: Sequence[float], **more: object) -> None:
        self._printer.figure(self._setting, name, "ms", values, **more)


async def answered(client: SegmentClient, image: bytes, prompt: str, options: dict[str, object]) -> Answered:
    """Ask for one answer; one that ended before it had all its tokens is no answer."""
    began, reasoning, draft = time.perf_counter(), math.nan, math.nan
    async for event in client.stream(image, prompt, **options):
        now = (time.perf_counter() - began) * 1000
        if isinstance(event, ReasoningDeltaEvent) and math.isnan(reasoning):
            reasoning = now
        elif isinstance(event, DraftEvent) and math.isnan(draft):
            draft = now
        elif isinstance(event, DoneEvent) and event.usage.reasoning_tokens == options["max_reasoning_tokens"]:
            return Answered(reasoning, draft, now)
    return Answered(math.nan, math.nan, math.nan)


async def token_times(
    role: VllmRole, shape: Shape, data: bytes, prompt: str, tokens: int
) -> tuple[float, float]:
    """Milliseconds to the first tokens of a stream, and for each one after those; nothing ends it early."""
    with Image.open(io.BytesIO(data)) as opened:
        image = await asyncio.to_thread(prepare_image, opened, f"{hash(data)}", shape.image)
    options = {
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_completion_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
    }
    request = Generation(Prefill(image, prompt, "<think>"), options)
    deadline = asyncio.get_running_loop().time() + STREAM_SECONDS
    began, seen = time.perf_counter(), dict[int, float]()
    async with aclosing(role.stream(request, deadline)) as chunks:
        async for chunk in chunks:
            if chunk.usage is not None and chunk.usage.completion_tokens:
                seen.setdefault(chunk.usage.completion_tokens, (time.perf_counter() - began) * 1000)
    before, last = min(seen), max(seen)
    return seen[before], (seen[last] - seen[before]) / (last - before) if last > before else math.nan


def photos(count: int) -> list[Picture]:
    """Pictures of a photograph's size, with three prompts each."""
    found = []
    for picture in demo_pictures(count, 3, FIRST_SCENE):
        with Image.open(io.BytesIO(picture.data)) as drawn:
            grown = drawn.convert("RGB").resize(PHOTO, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        grown.save(buffer, "JPEG", quality=90)
        found.append(Picture(buffer.getvalue(), picture.prompts))
    return found
