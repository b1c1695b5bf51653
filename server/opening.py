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
from server.telemetry.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class OpenEngines:
    """The engines, and the vLLM servers that were started for them, if any were."""

    engines: Engines
    servers: VllmServers | None

    @property
    def launched(self) -> dict[str, str]:
        """Where those servers are, by role."""
        if self.servers is None:
            return {}
        return {"reason": self.servers.reason_url, "concentrate": self.servers.concentrate_url}


@asynccontextmanager
async def open_engines(settings: Settings, telemetry: Telemetry | None = None) -> AsyncIterator[OpenEngines]:
    """Load the bundle and the vision runtime while the vLLM servers start; these may still be loading then.

    `telemetry` hears of the vLLM servers' health and load.

    Raises:
        BundleError: the bundle is not whole.
        BackendUnavailable: vLLM or the vision runtime is not installed; the message says what to install.
    """
    bundle = await asyncio.to_thread(Bundle.load, settings.bundle)
    async with AsyncExitStack() as stack:
        servers: VllmServers | None = None
        if not settings.reason_url:
            servers = VllmServers(settings.vllm, bundle.mllm_path, settings.log_dir)
            await stack.enter_async_context(servers)
        vision = await asyncio.to_thread(
            open_runtime, settings.vision, bundle.vision_path, settings.vision_threads, settings.cache_dir
        )
        stack.callback(vision.close)
        tokens = SpecialTokens.load(bundle.mllm_path)
        reason = (servers.reason_url,) if servers else settings.reason_url
        concentrate = (servers.concentrate_url,) if servers else settings.concentrate_url
        observer = telemetry.servers if telemetry else None
        client = MllmClient(bundle.answer, tokens, reason, concentrate, observer=observer)
        mllm = await stack.enter_async_context(client)
        yield OpenEngines(Engines.of(bundle, mllm, vision), servers)
