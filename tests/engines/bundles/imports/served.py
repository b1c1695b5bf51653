"""An imported bundle served for a test: real vLLM servers, a vision runtime and the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from engines.assembly import open_pipeline
from engines.bundles import Bundle
from engines.deadline import Deadline
from engines.events import Event
from engines.images import ImagePreparer, PreparedImage
from engines.mllm.client import MllmClient
from engines.mllm.grammar import SpecialTokens
from engines.mllm.launcher import VllmServers
from engines.mllm.vllm_config import Role, VllmConfig
from engines.pipeline import Pipeline
from engines.request import SegmentRequest
from engines.vision.runtimes import RuntimeName, open_runtime
from engines.vision.runtimes.base import VisionRuntime

START_SECONDS = 400.0
SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Served:
    """Everything of one bundle, running; `urls` are the vLLM servers'."""

    bundle: Bundle
    urls: Mapping[Role, str]
    mllm: MllmClient
    vision: VisionRuntime
    pipeline: Pipeline

    def prepare(self, image: Image.Image, digest: str) -> PreparedImage:
        vision = self.bundle.vision
        return ImagePreparer(self.bundle.mllm_image, vision.image_size, vision.fit).prepare(image, digest)

    async def segment(self, request: SegmentRequest, image: PreparedImage) -> list[Event]:
        async def load() -> PreparedImage:
            return image

        events = self.pipeline.segment(request, load, Deadline.after(SECONDS))
        async with aclosing(events):
            return [event async for event in events]


@asynccontextmanager
async def serve(
    bundle: Bundle, folder: Path, vision: RuntimeName, *, processes: int = 1
) -> AsyncIterator[Served]:
    """Start what the bundle's grounder needs; `folder` takes logs and exported graphs.

    Each server's language model is spread over so many processes. The KV cache holds less than the longest sequence
    that EGM's configuration allows.
    """
    config = VllmConfig(compile=False, kv_cache_gib=0.05, tensor_parallel_size=processes)
    async with AsyncExitStack() as stack:
        servers = VllmServers(config, bundle.mllm_path, folder, bundle.roles, bundle.pooled)
        await stack.enter_async_context(servers)
        runtime = await asyncio.to_thread(open_runtime, vision, bundle.vision_path, 1, folder / "graphs")
        stack.callback(runtime.close)
        await servers.wait_ready(START_SECONDS)
        tokens = SpecialTokens.load(bundle.mllm_path, bundle.answer.words())
        urls = servers.urls
        reason, concentrate = ((urls[role],) if role in urls else () for role in ("reason", "concentrate"))
        mllm = await stack.enter_async_context(
            MllmClient(bundle.answer, tokens, reason, concentrate, reader=bundle.reader)
        )
        pipeline = await stack.enter_async_context(
            open_pipeline(bundle.answer, bundle.mask_threshold, mllm, runtime)
        )
        yield Served(bundle, urls, mllm, runtime, pipeline)
