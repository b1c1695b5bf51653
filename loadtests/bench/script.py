"""A plain asyncio script: the gateway's calls to the same servers and the same runtime, in the same order."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engines.bundles import Bundle
from engines.events import MaskType, Rle
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.decision import Question, ask_count, ask_decision, count_objects, p_modal
from engines.mllm.grammar import SpecialTokens
from engines.mllm.image import Content, as_bitmap
from engines.mllm.results import Written
from engines.mllm.wire import Carried, ChatAnswer, ChatChunk, Generation, Pooling, PoolingAnswer, Prefill
from engines.mllm.written import WrittenAnswer
from engines.vision.masks import finish
from engines.vision.runtimes.base import DecodeItem, Embedding, VisionRuntime

DATA = "data: "


class PlainScript:
    """Segments with a bundle whose model writes its decision; one thread for each half of the runtime."""

    name = "script"

    def __init__(
        self,
        bundle: Bundle,
        reason_url: str,
        concentrate_url: str,
        runtime: VisionRuntime,
        content: Callable[[Image.Image], Content] = as_bitmap,
    ) -> None:
        """`content` makes what vLLM gets of an image."""
        self._answer = bundle.answer
        self._ending = WrittenAnswer(bundle.answer)
        self._threshold = bundle.mask_threshold
        self.reason_url = reason_url
        self._tokens = SpecialTokens.load(bundle.mllm_path)
        self._preparer = ImagePreparer(bundle.mllm_image, bundle.vision.image_size, content=content)
        self._runtime = runtime
        self._encoding, self._decoding = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.vectors = np.empty((0, 0), np.float32)
        """The latest request's, [objects, D]."""
        limits = httpx.Limits(max_connections=None)
        self._reasoner = httpx.AsyncClient(base_url=reason_url, timeout=None, limits=limits, trust_env=False)
        self._concentrator = httpx.AsyncClient(
            base_url=concentrate_url, timeout=None, limits=limits, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._reasoner.aclose()
        await self._concentrator.aclose()
        self._encoding.shutdown()
        self._decoding.shutdown()

    async def ask(self, data: bytes, prompt: str) -> int:
        """Segment; returns how many masks there are."""
        return len(await self.segment(data, prompt))

    async def segment(self, data: bytes, prompt: str) -> list[Rle]:
        """The masks."""
        image = await asyncio.to_thread(self.prepared, data)
        async with asyncio.TaskGroup() as group:
            encoding = group.create_task(self._encode(image))
            warming = group.create_task(self._warm(image, prompt))
            reasoning, written = await self.reason(image, prompt)
            kind, objects = (
                (written.mask_type, written.objects)
                if written
                else await self._decide(image, prompt, reasoning)
            )
            await warming
            asked = [self._answer.closed(reasoning)] if written else []
            asked += [self._answer.with_references(reasoning, kind, one + 1) for one in range(objects)]
            states = await self._vectors(image, prompt, asked) if asked else np.empty((0, 0), np.float32)
            self.vectors = states[len(asked) - objects :]
            if objects == 0:
                return []
            embedding = await encoding
        size, loop = image.vision.size, asyncio.get_running_loop()
        items = [DecodeItem(embedding, vector, size) for vector in states[len(asked) - objects :]]
        decoded = await loop.run_in_executor(self._decoding, self._runtime.decode, items)
        return [
            (
                await asyncio.to_thread(finish, one.mask_logits, size, image.vision.original, self._threshold)
            ).rle
            for one in decoded
        ]

    async def reason(self, image: PreparedImage, prompt: str) -> tuple[str, Written | None]:
        """The reasoning, streamed, and the answer written behind it."""
        close = self._answer.tokens.think_close
        request = Generation(
            self._prefill(image, prompt, self._answer.opened()), self._reasoning_options(image, prompt)
        )
        text = ""
        body = request.body(await _carried(request))
        async with self._reasoner.stream("POST", request.path, json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith(DATA) and line != f"{DATA}[DONE]":
                    text += ChatChunk.model_validate_json(line.removeprefix(DATA)).text
        reasoning, _, tail = text.partition(close)
        return reasoning, self._read(tail)

    async def reasoning_call(self, data: bytes, prompt: str) -> dict[str, object]:
        """The JSON with which vLLM is asked for the reasoning and the answer behind it, and for nothing else."""
        image = await asyncio.to_thread(self.prepared, data)
        prefill = self._prefill(image, prompt, self._answer.opened())
        request = Generation(prefill, PlainScript._reasoning_options(self, image, prompt))
        return request.body(await _carried(request))

    def _reasoning_options(self, image: PreparedImage, prompt: str) -> dict[str, object]:
        within = self._answer.tokens.within()
        return {
            "stream": True,
            "max_completion_tokens": self._answer.budget("full"),
            "stop_token_ids": [number for token, number in self._tokens.ids.items() if token not in within],
            "include_stop_str_in_output": True,
        }

    def _read(self, tail: str) -> Written | None:
        return self._ending.read(tail)

    async def timed_parts(self, data: bytes, prompt: str) -> dict[str, float]:
        """Seconds of each part, alone and one after another: ``reason``, ``concentrate``, ``encode``, ``decode``."""
        image = await asyncio.to_thread(self.prepared, data)
        took, began = {}, time.perf_counter()

        def lap(name: str) -> None:
            nonlocal began
            now = time.perf_counter()
            took[name], began = now - began, now

        reasoning, _ = await self.reason(image, prompt)
        lap("reason")
        texts = [self._answer.with_references(reasoning, "modal", 1)]
        vectors = await self._vectors(image, prompt, texts)
        lap("concentrate")
        embedding = await self._encode(image)
        lap("encode")
        item = DecodeItem(embedding, np.asarray(vectors[0]), image.vision.size)
        await asyncio.get_running_loop().run_in_executor(self._decoding, self._runtime.decode, [item])
        lap("decode")
        return took

    def prepared(self, data: bytes) -> PreparedImage:
        """What the gateway makes of a file, too."""
        with Image.open(io.BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        return self._preparer.prepare(picture, f"sha256:{hashlib.sha256(data).hexdigest()}")

    def _prefill(self, image: PreparedImage, prompt: str, assistant: str) -> Prefill:
        return Prefill(image.mllm, self._answer.user_text(self._tokens.escape(prompt)), assistant)

    async def _encode(self, image: PreparedImage) -> Embedding:
        loop = asyncio.get_running_loop()
        [embedding] = await loop.run_in_executor(self._encoding, self._runtime.encode, [image.vision])
        return embedding

    async def _decide(self, image: PreparedImage, prompt: str, reasoning: str) -> tuple[MaskType, int]:
        """The mask type and the number of objects: in one call where the answer's form allows it."""
        at_once = self._answer.counts_at_once
        question = ask_decision(self._answer, reasoning, count=at_once)
        positions = (await self._asked(image, prompt, question)).positions
        kind: MaskType = (
            "modal" if p_modal(self._answer.tokens.decisions(), positions[0]) >= 0.5 else "amodal"
        )
        if at_once and positions[0].token == self._answer.tokens.decision(kind):
            return kind, count_objects(self._answer.tokens, positions[1:])
        counted = await self._asked(image, prompt, ask_count(self._answer, reasoning, kind))
        return kind, count_objects(self._answer.tokens, counted.positions)

    async def _asked(self, image: PreparedImage, prompt: str, question: Question) -> ChatAnswer:
        request = Generation(self._prefill(image, prompt, question.text), question.options(self._tokens))
        return ChatAnswer.model_validate(await self._post(self._reasoner, request))

    async def _warm(self, image: PreparedImage, prompt: str) -> None:
        await self._vectors(image, prompt, [self._answer.opened()])

    async def _vectors(self, image: PreparedImage, prompt: str, texts: list[str]) -> NDArray[np.float32]:
        """The state [D] of each text's last token."""
        request = Pooling(tuple(self._prefill(image, prompt, text) for text in texts))
        return PoolingAnswer.model_validate(await self._post(self._concentrator, request)).vectors()

    async def _post(self, http: httpx.AsyncClient, request: Generation | Pooling) -> Any:
        answer = await http.post(request.path, json=request.body(await _carried(request)))
        answer.raise_for_status()
        return json.loads(answer.content)


async def _carried(request: Generation | Pooling) -> Carried:
    return Carried.with_each(await request.image.content.payload())
