"""The first requests to a vLLM server, which are slow, before anybody waits for them."""

from __future__ import annotations

import asyncio

from PIL import Image

from engines.mllm.image import MllmImageConfig, prepare_image
from engines.mllm.role import VllmRole
from engines.mllm.vllm_config import Pooled
from engines.mllm.wire import (
    ChatAnswer,
    Generation,
    Pooling,
    PoolingAnswer,
    Prefill,
    Reading,
    ReadingAnswer,
)


async def warm_up(role: VllmRole, *, timeout: float, pooled: Pooled = "last") -> None:
    """Use every kind of call once that the server's role has. Raises as VllmRole does."""
    deadline = asyncio.get_running_loop().time() + timeout
    grey = Image.new("RGB", (224, 168), (128, 128, 128))
    prefill = Prefill(prepare_image(grey, "warm-up", MllmImageConfig()), "warm-up", "-")
    if role.name == "concentrate" and pooled == "all":
        await role.call(Reading(prefill.image, prefill.user), ReadingAnswer, deadline)
        return
    if role.name == "concentrate":
        await role.call(Pooling((prefill,)), PoolingAnswer, deadline)
        return
    async for _ in role.stream(Generation(prefill, {"stream": True, "max_completion_tokens": 4}), deadline):
        pass
    ids = [0, 1]
    constrained = {"logprobs": True, "logprob_token_ids": ids, "allowed_token_ids": ids}
    await role.call(Generation(prefill, {"max_completion_tokens": 2, **constrained}), ChatAnswer, deadline)
