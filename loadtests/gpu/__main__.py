"""``make bench-gpu``: what an NVIDIA GPU reaches with models of published sizes and random weights, in JSON lines.

Speed is real, answers are not. The vision runtimes come first, then the whole server with each language model, each
precision, and the prefix cache on and off. Nothing is downloaded. Exit code 1: something could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import httpx
import uvloop

from engines.errors import EngineError
from engines.mllm.vllm_config import VllmConfig
from engines.vision.runtimes.cuda_driver import usable_gpus
from loadtests.gpu.folder import write_bundle
from loadtests.gpu.language import LONGEST, Plan, Trial, served
from loadtests.gpu.lines import Printer, Setting
from loadtests.gpu.shapes import SHAPES, Shape
from loadtests.gpu.vision import measure_all
from server.client import SegmentFailed

FAULTS = (SegmentFailed, EngineError, httpx.HTTPError, ExceptionGroup, OSError, SystemExit)
"""What a server that dies on the way looks like; the other settings are still measured."""


def parser() -> argparse.ArgumentParser:
    """The command line; an option that may be given many times means each of its choices when it is not given."""
    own = argparse.ArgumentParser(prog="python -m loadtests.gpu", description=__doc__)
    own.add_argument("--part", choices=("vision", "language"), action="append")
    own.add_argument("--runtime", choices=("tensorrt", "torch"), action="append", help="vision runtimes")
    own.add_argument("--size", choices=("demo", "h"), default="h", help="h: ViT-H with random weights")
    own.add_argument("--model", choices=tuple(SHAPES), action="append")
    own.add_argument("--precision", choices=("bf16", "fp8"), action="append")
    own.add_argument("--prefix-cache", choices=("on", "off"), action="append")
    own.add_argument("--vision", choices=("torch", "tensorrt"), default="torch", help="the gateway's runtime")
    own.add_argument("--requests", type=int, default=Plan().requests, help="images for each figure")
    own.add_argument("--clients", type=int, default=max(Plan().clients), help="the most at once")
    own.add_argument("--tflops", type=float, default=790.0, help="of the GPU, bfloat16; an H200 by default")
    own.add_argument(
        "--bandwidth", type=float, default=Plan().bandwidth, help="of its memory, TB/s; as above"
    )
    own.add_argument("--logs", type=Path, help="a folder for the servers' logs")
    return own


def read(words: Sequence[str]) -> argparse.Namespace:
    """The command line, checked. Exits with code 2 where it is wrong."""
    own = parser()
    given = own.parse_args(words)
    if min(given.requests, given.clients) < 1:
        own.error("counts must be at least 1")
    if min(given.tflops, given.bandwidth) <= 0:
        own.error("--tflops and --bandwidth must be above 0")
    return given


def settings(given: argparse.Namespace) -> list[Setting]:
    """What is to be served, one after another."""
    caches = [word == "on" for word in given.prefix_cache or ("on", "off")]
    models, precisions = given.model or tuple(SHAPES), given.precision or ("bf16", "fp8")
    return [Setting(*one) for one in product(models, precisions, caches)]


def plan(given: argparse.Namespace) -> Plan:
    """How much is measured."""
    usual = Plan()
    crowds = tuple(sorted({*(count for count in usual.clients if count <= given.clients), given.clients}))
    return Plan(given.requests, usual.tokens, crowds, given.bandwidth)


async def languages(given: argparse.Namespace, printer: Printer) -> bool:
    """Every setting; one that fails is a line that says so. Returns whether all were measured."""
    whole = True
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings(given):
            shape, bundle = SHAPES[setting.model], Path(folder) / setting.model
            if not bundle.exists():
                await asyncio.to_thread(write_bundle, bundle, shape)
            logs = (given.logs or Path(folder) / "logs") / "_".join(map(str, setting.about().values()))
            logs.mkdir(parents=True, exist_ok=True)
            try:
                await measured(shape, setting, bundle, given, printer, logs)
            except FAULTS as error:
                whole = False
                printer.tell(figure="fault", **setting.about(), fault=f"{type(error).__name__}: {error}")
    return whole


async def measured(
    shape: Shape, setting: Setting, bundle: Path, given: argparse.Namespace, printer: Printer, logs: Path
) -> None:
    """One setting."""
    config, wanted = VllmConfig(max_model_len=LONGEST), plan(given)
    async with served(bundle, setting, config, given.vision, max(wanted.clients), logs) as (role, client):
        await Trial(shape, setting, wanted, printer, role, client).run()


async def languages_until_signalled(given: argparse.Namespace, printer: Printer) -> bool:
    """The same, given up at SIGTERM: the servers end with it."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    return await languages(given, printer)


def main() -> int:
    """The command line."""
    given = read(sys.argv[1:])
    if not usable_gpus():
        print("there is no NVIDIA GPU here: nothing was measured", file=sys.stderr)
        return 1
    printer, whole = Printer.here(), True
    parts = given.part or ("vision", "language")
    if "vision" in parts:
        runtimes = given.runtime or ("tensorrt", "torch")
        for fault in measure_all(runtimes, given.size, given.tflops, printer):
            whole = False
            printer.tell(figure="fault", fault=fault)
    if "language" in parts:
        whole = uvloop.run(languages_until_signalled(given, printer)) and whole
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
