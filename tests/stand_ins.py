"""Stand-ins for the parts that a test wants to fail, to block or to script; everything else is real."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engines.errors import MllmUnavailable, VisionFailed
from engines.events import MaskType, ReasoningDelta
from engines.mllm.boxes import Box
from engines.mllm.image import MllmImage
from engines.mllm.interface import Hear
from engines.mllm.results import (
    NOTHING_KNOWN,
    Decision,
    KnownStates,
    ReasoningEnd,
    RoleHealth,
    TextStates,
    Written,
)
from engines.vision.buckets import Buckets
from engines.vision.config import (
    AdapterConfig,
    DecoderConfig,
    EncoderConfig,
    HeatmapConfig,
    HieraConfig,
    VisionConfig,
)
from engines.vision.model import VisionModel
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import Decoded, DecodeItem, Embedding
from engines.vision.runtimes.torch_cpu import TorchRuntime

VECTOR_DIM = 32
TINY_VISION = VisionConfig(
    encoder=EncoderConfig(
        image_size=64,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_dim=64,
        window_size=4,
        global_attn_indexes=(1,),
        output_channels=32,
    ),
    decoder=DecoderConfig(transformer_dim=32, num_heads=2, mlp_dim=64, iou_head_hidden_dim=32),
    heatmap=HeatmapConfig(vector_dim=VECTOR_DIM, num_heads=2),
)

TINY_SAM2 = VisionConfig(
    encoder=HieraConfig(
        image_size=64,
        widths=(8, 16, 32, 64),
        depths=(1, 1, 2, 1),
        num_heads=(1, 1, 2, 2),
        window_sizes=(8, 4, 4, 2),
        global_attn_indexes=(3,),
        output_channels=32,
        fit="centre",
    ),
    decoder=DecoderConfig(kind="sam2", transformer_dim=32, num_heads=2, mlp_dim=64, iou_head_hidden_dim=32),
    adapter=AdapterConfig(state_dim=VECTOR_DIM),
)
"""A SAM 2 with an adapter for sentences."""


def tiny_vision(path: Path) -> TorchRuntime:
    """A real vision runtime with the seeded first weights of a very small model."""
    torch.manual_seed(0)
    VisionModel.from_config(TINY_VISION).save(path)
    return TorchRuntime(path)


@dataclass
class ScriptedMllm:
    """In the language model's place: says `words`, decides as it is told, fails or hangs where it is told.

    `prompt_count` objects are what it finds when it is asked; `written` is what it writes behind its words; `failing`
    and `hanging` name its methods.
    """

    words: tuple[str, ...] = ("The mug ", "is behind ", "the box.")
    p_modal: float = 0.1
    prompt_count: int = 1
    written: Written | None = None
    failing: set[str] = field(default_factory=set)
    failing_prompts: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    healthy: bool = True
    running: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a method begins to hang."""
    found: dict[str, list[Box]] = field(default_factory=dict)
    """The boxes of every question that holds the key."""
    concentrates_apart: bool = True
    overheard: bool = False
    """Whether the vectors of what is written are told before its text ends."""

    @asynccontextmanager
    async def _call(self, name: str) -> AsyncIterator[None]:
        self.calls.append(name)
        self.running += 1
        try:
            await asyncio.sleep(0)
            if name in self.failing:
                raise MllmUnavailable(f"{name} failed", retry_after=7)
            if name in self.hanging:
                self.reached.set()
                await asyncio.Event().wait()
            yield
        finally:
            self.running -= 1

    async def reason(
        self,
        image: MllmImage,
        prompt: str,
        budget: int,
        *,
        objects: int | None = None,
        hear: Hear | None = None,
        timeout: float,
    ) -> AsyncGenerator[ReasoningDelta | ReasoningEnd, None]:
        if budget == 0:
            yield ReasoningEnd("", 0, 0, closed=True)
            return
        words = self.words[:budget]
        self.calls.append("reason")
        self.running += 1
        try:
            for word in words:
                await asyncio.sleep(0)
                yield ReasoningDelta(word)
            if "reason" in self.failing or prompt in self.failing_prompts:
                raise MllmUnavailable("reason failed", retry_after=7)
            if "reason" in self.hanging:
                self.reached.set()
                await asyncio.Event().wait()
            closed = len(words) == len(self.words)
            if closed and self.overheard and hear and self.written:
                for vector in self._vectors(self.written.mask_type, self.written.objects):
                    hear(self.written.mask_type, vector)
                await asyncio.sleep(0.05)
            yield ReasoningEnd("".join(words), 20, len(words), closed, self.written if closed else None)
        finally:
            self.running -= 1

    async def decide(
        self,
        image: MllmImage,
        prompt: str,
        reasoning: str,
        *,
        mask_type: MaskType | None = None,
        objects: int | None = None,
        written: Written | None = None,
        timeout: float,
    ) -> Decision:
        async with self._call("decide"):
            p_modal = {None: self.p_modal, "modal": 1.0, "amodal": 0.0}[mask_type]
            told = written.objects if written and written.mask_type == mask_type else self.prompt_count
            return Decision(p_modal, 1 - p_modal, told if objects is None else objects, 25, 2)

    async def boxes(
        self, image: MllmImage, prompt: str, reasoning: str, objects: int | None, *, timeout: float
    ) -> list[Box]:
        async with self._call("boxes"):
            return [box for part, boxes in self.found.items() if part in prompt for box in boxes]

    async def read(self, image: MllmImage, prompt: str, *, timeout: float) -> TextStates:
        async with self._call("read"):
            seed = np.random.default_rng(len(prompt))
            states = seed.normal(size=(3, VECTOR_DIM)).astype(np.float32)
            return TextStates(states[:2], states[2], 30)

    async def warm(
        self, image: MllmImage, prompt: str, *, objects: int | None = None, timeout: float
    ) -> None:
        async with self._call("warm"):
            pass

    async def concentrate(
        self,
        image: MllmImage,
        prompt: str,
        reasoning: str,
        mask_types: Sequence[MaskType],
        objects: int,
        *,
        known: KnownStates = NOTHING_KNOWN,
        timeout: float,
    ) -> dict[MaskType, NDArray[np.float32]]:
        async with self._call("concentrate"):
            return {kind: self._vectors(kind, objects) for kind in mask_types}

    async def conclude(
        self,
        image: MllmImage,
        prompt: str,
        reasoning: str,
        written: Written,
        mask_types: Sequence[MaskType],
        objects: int,
        *,
        timeout: float,
    ) -> tuple[Decision, dict[MaskType, NDArray[np.float32]]] | None:
        async with self._call("conclude"):
            decision = Decision(self.p_modal, 1 - self.p_modal, objects)
            vectors = {kind: self._vectors(kind, objects) for kind in mask_types}
            return (decision, vectors) if decision.mask_type == written.mask_type else None

    def _vectors(self, mask_type: MaskType, objects: int) -> NDArray[np.float32]:
        seed = np.random.default_rng([mask_type == "modal"])
        return seed.normal(size=(objects, VECTOR_DIM)).astype(np.float32) * 3

    async def health(self) -> tuple[RoleHealth, RoleHealth]:
        detail = "" if self.healthy else "down, as the test wants it"
        return RoleHealth("reason", self.healthy, detail), RoleHealth("concentrate", True)


class FaultyVision:
    """A real runtime that counts, that fails to decode vectors it is told to, and that waits at a gate."""

    def __init__(self, runtime: TorchRuntime) -> None:
        self._runtime = runtime
        self.gate = threading.Event()
        self.gate.set()
        self.encodes = 0
        self.batches: list[int] = []
        self.failing: set[str] = set()

    @property
    def config(self) -> VisionConfig:
        return self._runtime.config

    def encode(self, images: Sequence[Prepared]) -> list[Embedding]:
        assert self.gate.wait(120), "the test never opened the gate"
        self.encodes += len(images)
        if "encode" in self.failing:
            raise VisionFailed("encode failed")
        return self._runtime.encode(images)

    def decode(self, items: Sequence[DecodeItem]) -> list[Decoded]:
        self.batches.append(len(items))
        if "decode" in self.failing:
            raise VisionFailed("decode failed")
        return self._runtime.decode(items)

    def warm_up(self, buckets: Buckets | None = None) -> None:
        self._runtime.warm_up(buckets)

    def info(self) -> dict[str, str | int]:
        return self._runtime.info()

    def close(self) -> None:
        self._runtime.close()
