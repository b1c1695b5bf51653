"""Opens the engines that the settings ask for: the bundle, the language model's servers, the vision runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from PIL import Image

from engines.bundles import Bundle
from engines.errors import BackendUnavailable
from engines.mllm.client import MllmClient
from engines.mllm.grammar import SpecialTokens
from engines.mllm.image import Content, as_bitmap
from engines.mllm.launcher import VllmServers
from engines.mllm.tap.inbox import StatesInbox, open_inbox
from engines.mllm.vllm_config import Role, installed_device
from engines.mllm.written import DecisionHead
from engines.sight import knows_tower, open_tower
from engines.vision.runtimes import open_runtime
from server.fitting import wanted_roles
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
        return {str(role): url for role, url in self.servers.urls.items()}


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
        inbox: StatesInbox | None = None
        roles = wanted_roles(settings, bundle)
        urls = given_urls(settings, roles)
        seen_here = sees_here(settings, bundle, launches=not urls)
        if not urls:
            if roles != bundle.roles:
                inbox = await stack.enter_async_context(open_inbox())
            address = inbox.address if inbox else None
            servers = VllmServers(
                settings.vllm,
                bundle.mllm_path,
                settings.log_dir,
                roles,
                bundle.pooled,
                address,
                sees=not seen_here,
            )
            await stack.enter_async_context(servers)
        vision = await asyncio.to_thread(
            open_runtime, settings.vision, bundle.vision_path, settings.vision_threads, settings.cache_dir
        )
        stack.callback(vision.close)
        content: Callable[[Image.Image], Content] = as_bitmap
        if seen_here:
            tower = await asyncio.to_thread(open_tower, bundle.mllm_path, settings.vision_threads)
            stack.callback(tower.close)
            content = tower.content
        tokens = SpecialTokens.load(bundle.mllm_path, bundle.answer.words())
        if servers:
            urls = {role: (url,) for role, url in servers.urls.items()}
        observer = telemetry.servers if telemetry else None
        client = MllmClient(
            bundle.answer,
            tokens,
            urls.get("reason", ()),
            urls.get("concentrate", ()),
            reader=bundle.reader,
            head=await asyncio.to_thread(DecisionHead.load, bundle.mllm_path, bundle.answer, tokens),
            inbox=inbox,
            observer=observer,
        )
        mllm = await stack.enter_async_context(client)
        yield OpenEngines(Engines.of(bundle, mllm, vision, content), servers)


def sees_here(settings: Settings, bundle: Bundle, *, launches: bool) -> bool:
    """Whether the gateway runs the language model's image tower; `launches` is whether it starts vLLM's servers."""
    match settings.image_tower:
        case "gateway" if not knows_tower(bundle.mllm_path):
            raise BackendUnavailable(
                "image_tower=gateway needs OpenVINO (pip install '.[cpu]') and a Qwen2.5-VL each of whose blocks sees "
                f"the whole image, unlike that of {bundle.name}: leave the tower to vLLM"
            )
        case "gateway":
            return True
        case "auto":
            return launches and installed_device() == "cpu" and knows_tower(bundle.mllm_path)
        case "vllm":
            return False


def given_urls(settings: Settings, roles: Sequence[Role]) -> dict[Role, tuple[str, ...]]:
    """The URLs of vLLM servers that run elsewhere: of all roles that the bundle needs, or of none."""
    given: dict[Role, tuple[str, ...]] = {
        "reason": settings.reason_url,
        "concentrate": settings.concentrate_url,
    }
    urls = {role: given[role] for role in roles if given[role]}
    for role in roles:
        if urls and role not in urls:
            raise BackendUnavailable(
                f"{role}_url is not set: this bundle needs the URLs of {', '.join(roles)}"
            )
    return urls
