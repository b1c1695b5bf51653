"""The language model's side as the pipeline asks for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.events import MaskType, ReasoningDelta
from engines.mllm.boxes import Box
from engines.mllm.image import MllmImage
from engines.mllm.results import NOTHING_KNOWN, Decision, KnownStates, ReasoningEnd, TextStates, Written

Vectors = NDArray[np.float32]  # [K, D]: one concentration vector per object
Vector = NDArray[np.float32]  # [D]
Hear = Callable[[MaskType, Vector], None]
"""Told of a vector as soon as the model has written its reference, if it can be known then."""


class Mllm(Protocol):
    """The language model's side, as `engines.mllm.client.MllmClient` has it; `timeout` in seconds."""

    @property
    def concentrates_apart(self) -> bool: ...

    def reason(
        self,
        image: MllmImage,
        prompt: str,
        budget: int,
        *,
        objects: int | None = None,
        hear: Hear | None = None,
        timeout: float,
    ) -> AsyncGenerator[ReasoningDelta | ReasoningEnd, None]: ...

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
    ) -> Decision: ...

    async def boxes(
        self, image: MllmImage, prompt: str, reasoning: str, objects: int | None, *, timeout: float
    ) -> list[Box]: ...

    async def read(self, image: MllmImage, prompt: str, *, timeout: float) -> TextStates: ...

    async def warm(
        self, image: MllmImage, prompt: str, *, objects: int | None = None, timeout: float
    ) -> None: ...

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
    ) -> dict[MaskType, Vectors]: ...

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
    ) -> tuple[Decision, dict[MaskType, Vectors]] | None: ...
