"""What is measured side by side: each takes a picture and a prompt, and the gateway and others run as processes."""

from __future__ import annotations

import asyncio
import base64
import os
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import httpx
from PIL import Image

from engines.bundles import Bundle
from engines.mllm.image import Content, as_bitmap
from engines.mllm.launcher import VllmServers
from engines.mllm.leash import leashed
from engines.mllm.tap.inbox import StatesInbox, open_inbox
from engines.mllm.vllm_config import VllmConfig
from engines.sight import knows_tower, open_tower
from engines.vision.runtimes import open_runtime
from engines.vision.runtimes.base import VisionRuntime
from loadtests.bench.reference import Reference
from loadtests.bench.script import PlainScript
from loadtests.bench.tapped_script import TappedScript
from loadtests.soak import gateway
from server.client import SegmentClient

START_SECONDS = 600.0
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0
SERVE = "from server.cli import main; main()"
STOCK = VllmConfig()


class System(Protocol):
    """Something that segments; `ask` gives the number of masks."""

    name: str

    async def ask(self, data: bytes, prompt: str) -> int: ...


class ReferenceAlone:
    """The reference in a thread of this process, one request at a time."""

    name = "reference"

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._thread = ThreadPoolExecutor(1)

    async def ask(self, data: bytes, prompt: str) -> int:
        loop = asyncio.get_running_loop()
        [masks] = await loop.run_in_executor(self._thread, self._reference.segment, [data], [prompt])
        return len(masks)


class Gateway:
    """This server, over its client."""

    name = "gateway"

    def __init__(self, client: SegmentClient, pid: int) -> None:
        self.client = client
        self.pid = pid

    async def ask(self, data: bytes, prompt: str) -> int:
        return len((await self.client.segment(data, prompt)).masks)


class Another:
    """Another server of the reference: ``POST /segment`` with base64."""

    def __init__(self, name: str, http: httpx.AsyncClient) -> None:
        self.name = name
        self._http = http

    async def ask(self, data: bytes, prompt: str) -> int:
        body = {"image": base64.b64encode(data).decode(), "prompt": prompt}
        answer = await self._http.post("/segment", json=body)
        answer.raise_for_status()
        return len(answer.json()["masks"])


class Bare:
    """FastAPI and httpx alone, which stream what the script would have vLLM write."""

    def __init__(self, http: httpx.AsyncClient, pid: int, script: PlainScript) -> None:
        self._http = http
        self.pid = pid
        self._script = script

    async def keep(self, name: str, data: bytes, prompt: str) -> None:
        """Give it the call for a picture and a prompt."""
        call = await self._script.reasoning_call(data, prompt)
        (await self._http.put(f"/calls/{name}", json=call)).raise_for_status()

    async def ask(self, name: str, data: bytes) -> str:
        """What vLLM writes in answer to the call that was kept by this name; the file goes along."""
        answer = await self._http.post("/segment", files={"image": data}, data={"call": name})
        answer.raise_for_status()
        return str(answer.json())


@dataclass(frozen=True, slots=True)
class Systems:
    """All of them, ready, on the same vLLM servers where they use any; `runtime` is the script's."""

    reference: ReferenceAlone
    litserve: Another
    fastapi: Another
    gateway: Gateway
    script: PlainScript
    bare: Bare
    runtime: VisionRuntime


@asynccontextmanager
async def open_systems(
    path: Path, logs: Path, *, tap: bool = False, config: VllmConfig = STOCK
) -> AsyncIterator[Systems]:
    """Start everything, one after another, so that nothing is warmed while it is short of cores.

    vLLM's servers are those of `config`. With `tap` the gateway starts one of its own, which is tapped, and the
    script has another one like it.

    Raises:
        EngineError: the bundle or an engine cannot be used.
        SystemExit: a server ended before it was ready.
    """
    bundle = Bundle.load(path)
    async with AsyncExitStack() as stack:
        script, command = await _script(stack, bundle, logs, config, tap=tap)
        runtime = await asyncio.to_thread(open_runtime, "auto", bundle.vision_path)
        stack.callback(runtime.close)
        content = await sight(stack, bundle)
        await asyncio.to_thread(runtime.warm_up)
        pid, url = await stack.enter_async_context(gateway(command))
        plain = await stack.enter_async_context(script(runtime, content=content))
        yield Systems(
            reference=ReferenceAlone(await asyncio.to_thread(Reference, path)),
            litserve=await stack.enter_async_context(_other("litserve", path, logs)),
            fastapi=await stack.enter_async_context(_other("fastapi", path, logs)),
            gateway=Gateway(await stack.enter_async_context(SegmentClient(url)), pid),
            script=plain,
            bare=await stack.enter_async_context(open_bare(plain, logs)),
            runtime=runtime,
        )


async def sight(stack: AsyncExitStack, bundle: Bundle) -> Callable[[Image.Image], Content]:
    """What makes vLLM's part of an image, as in the gateway: the image tower, where it can be run here."""
    if not knows_tower(bundle.mllm_path):
        return as_bitmap
    tower = await asyncio.to_thread(open_tower, bundle.mllm_path)
    stack.callback(tower.close)
    return tower.content


async def _script(
    stack: AsyncExitStack, bundle: Bundle, logs: Path, config: VllmConfig, *, tap: bool
) -> tuple[Callable[..., PlainScript], list[str]]:
    """The script on vLLM servers that have been started for it, and the command line of a gateway like it."""
    if tap:
        inbox, url = await stack.enter_async_context(tapped_server(bundle.mllm_path, logs, config))
        tapped = partial(TappedScript, bundle, url, url, inbox=inbox)
        options = ("--concentrate", "tap", "--speculative-tokens", str(config.speculative_tokens))
        return tapped, serve_command(bundle.path, None, *options)
    seen = knows_tower(bundle.mllm_path)
    servers = await stack.enter_async_context(
        VllmServers(config, bundle.mllm_path, logs, bundle.roles, sees=not seen)
    )
    await servers.wait_ready(START_SECONDS)
    plain = partial(PlainScript, bundle, servers.reason_url, servers.concentrate_url)
    return plain, serve_command(bundle.path, servers, "--image-tower", "gateway" if seen else "vllm")


@asynccontextmanager
async def tapped_server(
    model: Path, logs: Path, config: VllmConfig = STOCK
) -> AsyncIterator[tuple[StatesInbox, str]]:
    """A reason server that sends its hidden states to the inbox: that, and the server's URL."""
    folder = logs / f"tapped-{config.speculative_tokens}"
    folder.mkdir(exist_ok=True)
    sees = not knows_tower(model)
    async with (
        open_inbox() as inbox,
        VllmServers(config, model, folder, ("reason",), inbox=inbox.address, sees=sees) as servers,
    ):
        await servers.wait_ready(START_SECONDS)
        yield inbox, servers.reason_url


def serve_command(bundle: Path, servers: VllmServers | None, *options: str) -> list[str]:
    """The command line of a gateway on servers that run already, or on those that it starts."""
    urls = (
        ["--reason-url", servers.reason_url, "--concentrate-url", servers.concentrate_url] if servers else []
    )
    words = [sys.executable, "-c", SERVE, "serve", "--port", "0", "--bundle", str(bundle), *urls]
    return [*words, "--log-level", "info", "--log-format", "text", *options]


@asynccontextmanager
async def _other(name: str, bundle: Path, logs: Path) -> AsyncIterator[Another]:
    """A server of the reference."""
    port = free_port()
    command = [sys.executable, "-m", f"loadtests.bench.{name}_app", str(bundle), str(port)]
    async with child_server(command, port, logs / f"{name}.log") as http:
        yield Another(name, http)


@asynccontextmanager
async def open_bare(script: PlainScript, logs: Path) -> AsyncIterator[Bare]:
    """The packages alone, on the reason server that the script has."""
    port = free_port()
    command = [sys.executable, "-m", "loadtests.bench.bare_app", script.reason_url, str(port)]
    async with child_server(command, port, logs / "bare.log") as http:
        yield Bare(http, (await http.get("/health")).json(), script)


def free_port() -> int:
    """A port of the loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@asynccontextmanager
async def child_server(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A server as a leashed child process, once it is healthy. Raises SystemExit if it ends before that."""
    limits = httpx.Limits(max_connections=None)
    async with (
        child_process(command, log, environment) as child,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=None, limits=limits, trust_env=False
        ) as http,
    ):
        async with asyncio.timeout(START_SECONDS):
            while not await _healthy(http):
                if child.returncode is not None:
                    raise SystemExit(f"{shlex.join(command)} ended with {child.returncode}: see {log}")
                await asyncio.sleep(POLL_SECONDS)
        yield http


@asynccontextmanager
async def child_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command that ends with the block, or with this process, and takes all that it started along."""
    with log.open("wb") as file:
        child = await asyncio.create_subprocess_exec(
            *leashed(command, GRACE_SECONDS),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
        )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(2 * GRACE_SECONDS):  # the leash itself kills after one
                await child.wait()
        except TimeoutError:
            os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


async def _healthy(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/health")).is_success
    except httpx.HTTPError:
        return False
