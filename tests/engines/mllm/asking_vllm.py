"""What tests ask of real vLLM servers, and how their answers are compared."""

from __future__ import annotations

import httpx
import numpy as np
from numpy.typing import NDArray

from engines.events import ReasoningDelta
from engines.mllm.client import MllmClient
from engines.mllm.image import MllmImage
from engines.mllm.results import ReasoningEnd

SECONDS = 60.0
SAME = 0.9995
"""The cosine from which on two vectors are the same but for bf16's rounding."""


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


async def metric(url: str, begin: str) -> float:
    """The sum of those of vLLM's metrics that begin so."""
    async with httpx.AsyncClient(trust_env=False) as http:
        lines = (await http.get(f"{url}/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{begin}"))


async def reason(
    client: MllmClient, image: MllmImage, budget: int, prompt: str = "Segment the red mug, please."
) -> tuple[list[str], ReasoningEnd]:
    items = [item async for item in client.reason(image, prompt, budget, timeout=SECONDS)]
    deltas = [item.text for item in items[:-1] if isinstance(item, ReasoningDelta)]
    assert isinstance(items[-1], ReasoningEnd)
    return deltas, items[-1]
