"""Opens the engines that the settings ask for: the bundle, the language model's servers, the vision runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from engines.bundles import Bundle
from engines.mllm.client import MllmClient
from engines.mllm.grammar import SpecialTokens
from engines.mllm.launcher import VllmServers
from engines.vision.runtimes import open_runtime
from server.services import Engines
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class OpenEngines:
    """The engines, and the vLLM servers that were started for them, if any were."""

    engines: Engines
    servers: VllmServers | None


@asynccontextmanager
async def open_engines(settings: Settings) -> AsyncIterator[OpenEngines]:
    """Load the bundle and the vision runtime while the vLLM servers start; these may still be loading then.

    Raises:
        BundleError: the bundle is not whole.
        BackendUnavailable: vLLM or the vision runtime is not installed; the message says what to install.
    """
    bundle = await asyncio.to_thread(Bundle.load, settings.bundle)
    async with AsyncExitStack() as stack:
        servers: VllmServers | None = None
        if settings.reason_url is None or settings.concentrate_url is None:
            servers = VllmServers(settings.vllm, bundle.mllm_path, settings.log_dir)
            await stack.enter_async_context(servers)
        vision = await asyncio.to_thread(
            open_runtime, settings.vision, bundle.vision_path, settings.vision_threads, settings.cache_dir
        )
        stack.callback(vision.close)
        tokens = SpecialTokens.load(bundle.mllm_path, bundle.answer.words())
        reason_url = servers.reason_url if servers else settings.reason_url
        concentrate_url = servers.concentrate_url if servers else settings.concentrate_url
        assert reason_url is not None
        assert concentrate_url is not None
        mllm = await stack.enter_async_context(MllmClient(bundle.answer, tokens, reason_url, concentrate_url))
        yield OpenEngines(Engines.of(bundle, mllm, vision), servers)
