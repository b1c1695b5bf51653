"""``python -m loadtests.bench.ways``: other ways to run the language model, weighed against the two stock servers.

With ``--server`` further reason servers are started. *tap*: one that sends its hidden states, as ``--concentrate tap``
has it, and no second server. *guess*: the same, which guesses what it will write, as ``--speculative-tokens`` has it.
*ngram*: the reason server with vLLM's n-gram proposer, and the second server. vLLM 0.32 fails where a server that
speculates so is asked for the probabilities of chosen tokens, as the gateway does where no decision was written; there
*ngram* takes one modal object for granted. *eager*: the reason server with its model uncompiled, and the second server,
whose model is compiled.

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
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
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
from engines.mllm.launcher import VllmServers
from engines.mllm.vllm_config import VllmConfig, arguments, environment, installed_device, yielding
from engines.sight import knows_tower
from engines.vision.runtimes import open_runtime
from engines.vision.runtimes.base import VisionRuntime
from loadtests.bench.script import PlainScript
from loadtests.bench.systems import START_SECONDS, child_server, free_port, sight, tapped_server
from loadtests.bench.tapped_script import TappedScript
from loadtests.bench.trials import milliseconds, process_cpu_ms, spell
from loadtests.load.questions import as_new, demo_pictures
from server.settings import DEMO_BUNDLE

FIRST_SCENE = 90_000_000
WARM_UP = 2
STOCK = "stock"
TAP_WAY, GUESS_WAY, NGRAM_WAY = "tap", "guess", "ngram"
FURTHER = (TAP_WAY, GUESS_WAY, NGRAM_WAY, "eager")
GUESSES = 12
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
HERE = "here"
"""The script's own process: images, the vision runtime, masks."""


class PresumingScript(PlainScript):
    """The script that takes one modal object for granted where the model has not written its answer."""

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
    """What one way took in one round: ms of CPU a request by process, and the latency of one client in ms.

    `cosine` is the least between its vectors and the stock servers', where both find the same number of objects.
    """

    cpu: dict[str, float]
    latency: float
    cosine: float

    @property
    def cost(self) -> float:
        """The machine time of a request in ms."""
        return sum(self.cpu.values())


def processes_at(url: str) -> list[int]:
    """The processes whose command line names the port of a server that was started here, and all their children.

    vLLM's engine is a child of its front end, under a name that tells no port.
    """
    port, parents, found = url.rpartition(":")[2].encode(), dict[int, int](), set[int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = (
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )  # the name may hold spaces
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)] = int(parent)
            if b"--port" in words and words[words.index(b"--port") + 1] == port:
                found.add(int(entry.name))
    while below := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= below
    return sorted(found)


@asynccontextmanager
async def open_ways(path: Path, logs: Path, further: Collection[str]) -> AsyncIterator[dict[str, Way]]:
    """Start the servers, one after another. Raises EngineError."""
    bundle = Bundle.load(path)
    sees = not knows_tower(bundle.mllm_path)
    async with AsyncExitStack() as stack:
        stock = await stack.enter_async_context(
            VllmServers(VllmConfig(), bundle.mllm_path, logs, bundle.roles, sees=sees)
        )
        await stock.wait_ready(START_SECONDS)
        runtime: VisionRuntime = await asyncio.to_thread(open_runtime, "auto", bundle.vision_path)
        stack.callback(runtime.close)
        content = await sight(stack, bundle)
        asked: dict[str, tuple[Callable[..., PlainScript], str]] = {STOCK: (PlainScript, stock.reason_url)}
        for name in further:
            if name in (TAP_WAY, GUESS_WAY):
                config = VllmConfig(speculative_tokens=GUESSES if name == GUESS_WAY else 0)
                inbox, url = await stack.enter_async_context(tapped_server(bundle.mllm_path, logs, config))
                asked[name] = (partial(TappedScript, inbox=inbox), url)
            else:
                url = await stack.enter_async_context(further_server(name, bundle.mllm_path, logs, sees=sees))
                asked[name] = (PresumingScript if name == NGRAM_WAY else PlainScript, url)
        ways = {}
        for name, (kind, url) in asked.items():
            script = await stack.enter_async_context(
                kind(bundle, url, stock.concentrate_url, runtime, content=content)
            )
            servers = {"reason": url, "concentrate": stock.concentrate_url}
            ways[name] = Way(script, {role: processes_at(at) for role, at in servers.items()})
        yield ways


@asynccontextmanager
async def further_server(name: str, model: Path, logs: Path, *, sees: bool) -> AsyncIterator[str]:
    """The URL of a reason server that speculates, which the launcher would not have (see above), or runs uncompiled."""
    port, device = free_port(), installed_device()
    flags = ("--speculative-config", json.dumps(NGRAM)) if name == NGRAM_WAY else ()
    config = VllmConfig(reason_flags=flags, compile=False if name == "eager" else None)
    config = config.for_roles(1, device)
    command = [
        *yielding("reason", device, sees=sees),
        sys.executable,
        *arguments(config, "reason", device, model, port, sees=sees),
    ]
    surroundings = environment(config, "reason", device, os.environ)
    async with child_server(command, port, logs / f"vllm-{name}.log", surroundings) as http:
        yield str(http.base_url)


async def measure(
    ways: dict[str, Way], number: int, requests: int, clients: int, prompts: int
) -> dict[str, Took]:
    """One round: each way, in turns, with many clients at once, and then all of them with one."""
    first = FIRST_SCENE + number * 10_000
    drawn = await asyncio.to_thread(demo_pictures, 2 * requests, prompts, first)
    pictures, others = drawn[:requests], drawn[requests:]  # what was written of a picture once is no surprise
    names = [*ways][number % len(ways) :] + [*ways][: number % len(ways)]
    cpu: dict[str, dict[str, float]] = {}
    latencies: dict[str, list[float]] = {name: [] for name in names}
    cosines: dict[str, list[float]] = {name: [] for name in names}

    def new(place: int, name: str, part: str) -> bytes:
        return as_new(pictures[place].data, f"{number} {name} {part}")

    for name in names:
        asked = [
            (new(place, name, "many"), one.prompt(which))
            for which in range(prompts)
            for place, one in enumerate(pictures)
        ]
        before = ways[name].spent()
        await spell(ways[name].script, asked, clients)
        after = ways[name].spent()
        cpu[name] = {process: (after[process] - before[process]) / len(asked) for process in after}
    for (place, one), which in product(enumerate(others), range(prompts)):
        for name in names:
            took = await milliseconds(ways[name].script, new(place, name, "one"), one.prompt(which))
            latencies[name].append(took)
        for name in names:
            cosines[name] += cosines_of(ways[name].script.vectors, ways[STOCK].script.vectors)
    return {name: Took(cpu[name], median(latencies[name]), min(cosines[name], default=1.0)) for name in names}


def cosines_of(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> list[float]:
    """Between the vectors of the same objects; none where their numbers differ."""
    if ours.shape != theirs.shape:
        return []
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return [float(cosine) for cosine in (ours * theirs).sum(-1) / norms]


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
        pairs = [(one[name], one[STOCK]) for one in rounds]
        compared = {
            "machine_time": [way.cost / base.cost for way, base in pairs],
            "reason_machine_time": [way.cpu["reason"] / base.cpu["reason"] for way, base in pairs],
            "one_client": [way.latency / base.latency for way, base in pairs],
        }
        lines += [
            {
                "figure": f"{name}_{figure}",
                "over": STOCK,
                "ratio": round(median(ratios), 3),
                "spread": [round(min(ratios), 3), round(max(ratios), 3)],
                "rounds": len(rounds),
            }
            for figure, ratios in compared.items()
        ]
        least = min(one[name].cosine for one in rounds)
        lines.append({"figure": f"{name}_least_cosine", "over": STOCK, "value": round(least, 6)})
    return [{"figure": "cpu", "unit": "ms", "value": round(cost, 1), "rounds": len(rounds)}, *lines]


async def weigh(given: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as logs:
        async with open_ways(given.bundle, given.logs or Path(logs), given.server or ()) as ways:
            for name, way in ways.items():
                print(f"warming up: {name}", file=sys.stderr, flush=True)
                for place, picture in enumerate(
                    await asyncio.to_thread(demo_pictures, WARM_UP, 1, FIRST_SCENE - WARM_UP)
                ):
                    await way.script.ask(as_new(picture.data, f"warm {name} {place}"), picture.prompt(0))
            found = []
            for number in range(given.rounds):
                print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
                found.append(await measure(ways, number, given.requests, given.clients, given.prompts))
    for line in as_lines(found):
        print(json.dumps(line), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench.ways", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=DEMO_BUNDLE)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=16, help="pictures in each part of a round")
    parser.add_argument("--prompts", type=int, default=1, help="prompts to a picture")
    parser.add_argument("--clients", type=int, default=16, help="how many clients at once are many")
    parser.add_argument("--server", choices=FURTHER, action="append", help="start this one, too")
    parser.add_argument("--logs", type=Path, help="a folder for the servers' logs")
    given = parser.parse_args()
    if min(given.rounds, given.requests, given.prompts, given.clients) < 1:
        parser.error("counts must be at least 1")
    try:
        uvloop.run(weigh(given))
    except (EngineError, OSError, httpx.HTTPError, ExceptionGroup) as error:
        sys.exit(f"ways: {error!r}")


if __name__ == "__main__":
    main()
