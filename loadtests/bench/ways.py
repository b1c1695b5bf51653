"""``python -m loadtests.bench.ways``: other ways to run the language model, weighed against the two stock servers.

*tap*: one server whose hidden states cost nothing at all, and which is asked no question more for them. There is no
such server; its requests leave the second one out, and their masks mean nothing. What it saves is the most that any
tap can. *speculation*: the reason server with vLLM's n-gram proposer. vLLM 0.32 fails where such a server is asked for
the probabilities of chosen tokens, as the gateway does for the decision, so this way, and *undecided* that it is
compared with, do not ask: they only reason and take one modal object for granted.

All of them segment the same new images in turns, by the plain script. The machine time of a request is that of all
processes together, so it is the same on a busy machine; latencies are ratios within one round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import uvloop
from numpy.typing import NDArray

from engines.bundles import Bundle
from engines.errors import EngineError
from engines.events import MaskType
from engines.images import PreparedImage
from engines.mllm import leash
from engines.mllm.launcher import GRACE_SECONDS, VllmServers
from engines.mllm.vllm_config import VllmConfig, arguments, environment, installed_device
from engines.vision.runtimes import open_runtime
from engines.vision.runtimes.base import VisionRuntime
from loadtests.bench.script import PlainScript
from loadtests.bench.systems import START_SECONDS, child_server, free_port
from loadtests.bench.trials import milliseconds, process_cpu_ms, spell
from loadtests.load.questions import as_new, demo_pictures
from server.settings import DEMO_BUNDLE

FIRST_SCENE = 90_000_000
WARM_UP = 2
STOCK, SPECULATION = "stock", "speculation"
BASES = {SPECULATION: "undecided"}
"""What a way is compared with, if not with the stock servers."""
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
HERE = "here"
"""The script's own process: images, the vision runtime, masks."""


class TapScript(PlainScript):
    """The script without the second server, as if its answers were known. The vectors are all ones."""

    name = "tap"

    async def _warm(self, image: PreparedImage, prompt: str) -> None: ...

    async def _vectors(self, image: PreparedImage, prompt: str, texts: list[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), self._runtime.config.vector_dim), np.float32)


class UndecidedScript(PlainScript):
    """The script that does not ask which mask is meant, nor of how many objects."""

    name = "undecided"

    async def _decide(self, image: PreparedImage, prompt: str, reasoning: str) -> tuple[MaskType, int]:
        return "modal", 1


@dataclass(frozen=True, slots=True)
class Way:
    """A script and the servers that work for it: their processes, by name."""

    script: PlainScript
    servers: dict[str, Sequence[int]]

    def spent(self) -> dict[str, float]:
        """Milliseconds of CPU that each of them, and this process, have had."""
        spent = {name: sum(process_cpu_ms(pid) for pid in pids) for name, pids in self.servers.items()}
        return {HERE: time.process_time() * 1000, **spent}


@dataclass(frozen=True, slots=True)
class Took:
    """What one way took in one round: ms of CPU a request by process, and the latency of one client in ms."""

    cpu: dict[str, float]
    latency: float

    @property
    def cost(self) -> float:
        """The machine time of a request in ms."""
        return sum(self.cpu.values())


def processes_at(url: str) -> list[int]:
    """The processes whose command line names the port of a server that was started here."""
    port, found = url.rpartition(":")[2].encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if b"--port" in words and words[words.index(b"--port") + 1] == port:
                found.append(int(entry.name))
    return found


@asynccontextmanager
async def open_ways(path: Path, logs: Path, speculate: bool) -> AsyncIterator[dict[str, Way]]:
    """Start the servers, one after another. Raises EngineError."""
    bundle = Bundle.load(path)
    async with AsyncExitStack() as stack:
        stock = await stack.enter_async_context(
            VllmServers(VllmConfig(), bundle.mllm_path, logs, bundle.roles)
        )
        await stock.wait_ready(START_SECONDS)
        runtime: VisionRuntime = await asyncio.to_thread(open_runtime, "auto", bundle.vision_path)
        stack.callback(runtime.close)
        asked: dict[str, tuple[type[PlainScript], str]] = {
            STOCK: (PlainScript, stock.reason_url),
            TapScript.name: (TapScript, stock.reason_url),
        }
        if speculate:
            guessing = await stack.enter_async_context(speculating(bundle.mllm_path, logs))
            asked |= {
                UndecidedScript.name: (UndecidedScript, stock.reason_url),
                SPECULATION: (UndecidedScript, guessing),
            }
        ways = {}
        for name, (kind, url) in asked.items():
            script = await stack.enter_async_context(kind(bundle, url, stock.concentrate_url, runtime))
            servers = {"reason": url, "concentrate": stock.concentrate_url}
            ways[name] = Way(script, {role: processes_at(at) for role, at in servers.items()})
        yield ways


@asynccontextmanager
async def speculating(model: Path, logs: Path) -> AsyncIterator[str]:
    """The URL of a reason server that guesses. The launcher would not have it: see above."""
    config = VllmConfig(reason_flags=("--speculative-config", json.dumps(NGRAM)))
    port, device = free_port(), installed_device()
    command = [sys.executable, "-I", leash.__file__, str(os.getpid()), str(GRACE_SECONDS), sys.executable]
    command += arguments(config, "reason", device, model, port)
    surroundings = environment(config, "reason", device, os.environ)
    async with child_server(command, port, logs / "vllm-speculation.log", surroundings) as http:
        yield str(http.base_url)


async def measure(ways: dict[str, Way], number: int, requests: int, clients: int) -> dict[str, Took]:
    """One round: each way, in turns, with many clients at once, and then all of them with one."""
    pictures = await asyncio.to_thread(demo_pictures, requests, 1, FIRST_SCENE + number * 10_000)
    names = [*ways][number % len(ways) :] + [*ways][: number % len(ways)]
    cpu: dict[str, dict[str, float]] = {}
    latencies: dict[str, list[float]] = {name: [] for name in names}

    def new(place: int, name: str, part: str) -> bytes:
        return as_new(pictures[place].data, f"{number} {name} {part}")

    for name in names:
        asked = [(new(place, name, "many"), one.prompt(0)) for place, one in enumerate(pictures)]
        before = ways[name].spent()
        await spell(ways[name].script, asked, clients)
        after = ways[name].spent()
        cpu[name] = {process: (after[process] - before[process]) / requests for process in after}
    for place, one in enumerate(pictures):
        for name in names:
            took = await milliseconds(ways[name].script, new(place, name, "one"), one.prompt(0))
            latencies[name].append(took)
    return {name: Took(cpu[name], median(latencies[name])) for name in names}


def as_lines(rounds: Sequence[dict[str, Took]]) -> list[dict[str, object]]:
    """The figures: where a request's machine time goes, then each other way over the stock servers."""
    stock = [one[STOCK] for one in rounds]
    cost = median(took.cost for took in stock)
    lines: list[dict[str, object]] = [
        {
            "figure": f"cpu_{process}",
            "unit": "ms",
            "value": round(median(took.cpu[process] for took in stock), 1),
            "share": round(median(took.cpu[process] / took.cost for took in stock), 3),
            "rounds": len(rounds),
        }
        for process in stock[0].cpu
    ]
    for name in sorted(rounds[0].keys() - {STOCK}):
        pairs = [(one[name], one[BASES.get(name, STOCK)]) for one in rounds]
        compared = {
            "machine_time": [way.cost / base.cost for way, base in pairs],
            "reason_machine_time": [way.cpu["reason"] / base.cpu["reason"] for way, base in pairs],
            "one_client": [way.latency / base.latency for way, base in pairs],
        }
        lines += [
            {
                "figure": f"{name}_{figure}",
                "over": BASES.get(name, STOCK),
                "ratio": round(median(ratios), 3),
                "spread": [round(min(ratios), 3), round(max(ratios), 3)],
                "rounds": len(rounds),
            }
            for figure, ratios in compared.items()
        ]
    return [{"figure": "cpu", "unit": "ms", "value": round(cost, 1), "rounds": len(rounds)}, *lines]


async def weigh(given: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as logs:
        async with open_ways(given.bundle, given.logs or Path(logs), given.speculation) as ways:
            for name, way in ways.items():
                print(f"warming up: {name}", file=sys.stderr, flush=True)
                for place, picture in enumerate(
                    await asyncio.to_thread(demo_pictures, WARM_UP, 1, FIRST_SCENE - WARM_UP)
                ):
                    await way.script.ask(as_new(picture.data, f"warm {name} {place}"), picture.prompt(0))
            found = []
            for number in range(given.rounds):
                print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
                found.append(await measure(ways, number, given.requests, given.clients))
    for line in as_lines(found):
        print(json.dumps(line), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench.ways", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=DEMO_BUNDLE)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=16, help="pictures in each part of a round")
    parser.add_argument("--clients", type=int, default=16, help="how many clients at once are many")
    parser.add_argument(
        "--speculation", action="store_true", help="start a third server, with n-gram speculation"
    )
    parser.add_argument("--logs", type=Path, help="a folder for the servers' logs")
    given = parser.parse_args()
    if min(given.rounds, given.requests, given.clients) < 1:
        parser.error("counts must be at least 1")
    try:
        uvloop.run(weigh(given))
    except (EngineError, OSError, httpx.HTTPError, ExceptionGroup) as error:
        sys.exit(f"ways: {error!r}")


if __name__ == "__main__":
    main()
