"""``make bench`` and ``make bench-check``: side by side on this machine, one JSON line a figure."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvloop

from engines.errors import EngineError
from engines.mllm.vllm_config import VllmConfig
from loadtests.bench.check import RATIOS, as_table, compare, read_ratios, record
from loadtests.bench.figures import FIGURES, Pairs, as_line
from loadtests.bench.systems import Systems, open_systems
from loadtests.bench.trials import Round, Size
from server.client import SegmentFailed

DEMO = Path(__file__).parents[2] / "engines" / "demo" / "bundle"
WARM_UP = -1
"""The number of the round that warms everything up and is thrown away."""
FAULTS = (SegmentFailed, EngineError, httpx.HTTPError, ExceptionGroup)
"""What a system that dies in the middle of a round looks like."""


def tell(text: str) -> None:
    """How it goes, beside the figures."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures by round; `fault` says what broke the rounds off, and is empty if all of them were run."""

    pairs: Pairs
    fault: str = ""


async def measure(systems: Systems, size: Size, rounds: int, first: int = 0) -> Measured:
    """So many rounds, after one that warms up; what they showed before something failed is kept."""
    pairs: Pairs = {}
    try:
        tell("warming up")
        await Round(WARM_UP, systems, Size(2, 2), {}).run()
        for number in range(first, first + rounds):
            tell(f"round {number + 1 - first} of {rounds}")
            await Round(number, systems, size, pairs).run()
    except FAULTS as error:
        return Measured(pairs, f"{type(error).__name__}: {error}")
    return Measured(pairs)


def tell_figures(found: Measured, size: Size) -> None:
    """The JSON lines, in the figures' order; the first one says what they were measured on, and whether all was."""
    machine = {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0))}
    whole = {"complete": not found.fault, "fault": found.fault}
    print(json.dumps({**machine, "requests": size.requests, "clients": size.clients, **whole}))
    for name in FIGURES:
        if name in found.pairs:
            print(json.dumps(as_line(name, found.pairs[name])), flush=True)


def opened(given: argparse.Namespace, logs: Path) -> AbstractAsyncContextManager[Systems]:
    """All that is compared, as the command line wants it."""
    config = VllmConfig(speculative_tokens=given.speculative_tokens)
    return open_systems(given.bundle, logs, tap=given.concentrate == "tap", config=config)


async def keep(given: argparse.Namespace, size: Size, logs: Path) -> int:
    """Measure several times and keep the ratios; returns the exit code.

    Everything is started anew each time, as it is for a check: from one start to the next, figures differ by more
    than they do within one.
    """
    found = []
    for number in range(given.record):
        tell(f"measurement {number + 1} of {given.record}")
        async with opened(given, logs) as systems:
            found.append(await measure(systems, size, given.rounds, number * given.rounds))
        if found[-1].fault:
            tell(f"incomplete, nothing is kept: {found[-1].fault}")
            return 1
    record(given.ratios, [one.pairs for one in found])
    tell(f"{given.ratios} has been written")
    return 0


async def bench(given: argparse.Namespace) -> int:
    """What the command line asks for; returns the exit code."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    size = Size(given.requests, given.clients)
    kept = read_ratios(given.ratios) if given.check else {}
    with tempfile.TemporaryDirectory() as logs:
        folder = given.logs or Path(logs)
        if given.record:
            return await keep(given, size, folder)
        async with opened(given, folder) as systems:
            found = await measure(systems, size, given.rounds)
    if not given.check or found.fault:
        tell_figures(found, size)
        return 1 if found.fault else 0
    verdicts = compare(kept, found.pairs)
    print(as_table(verdicts))
    return 1 if any(verdict.worse for verdict in verdicts) else 0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtests.bench", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=DEMO)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--requests", type=int, default=16, help="pictures in each part of a round")
    parser.add_argument("--clients", type=int, default=16, help="how many clients at once are many")
    parser.add_argument(
        "--concentrate", choices=("server", "tap"), default="server", help="as `r2sm serve` has it"
    )
    parser.add_argument("--speculative-tokens", type=int, default=0, help="as `r2sm serve` has it")
    parser.add_argument("--logs", type=Path, help="a folder for the servers' logs")
    parser.add_argument("--ratios", type=Path, default=RATIOS, help="the file of kept ratios")
    parser.add_argument("--check", action="store_true", help="compare with the kept ratios; 1: one is worse")
    parser.add_argument(
        "--record", type=int, default=0, help="measure so many times, and keep ratios and their noise"
    )
    given = parser.parse_args()
    if min(given.rounds, given.requests, given.clients) < 1 or given.record in (1, 2):
        parser.error("counts must be at least 1, and --record at least 3: noise shows in repeats only")
    if given.logs is not None:
        given.logs.mkdir(parents=True, exist_ok=True)
    try:
        sys.exit(uvloop.run(bench(given)))
    except (EngineError, OSError) as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
