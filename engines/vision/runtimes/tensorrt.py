"""The TensorRT runtime: engines built for this very machine, checked against the reference before they serve."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import tensorrt as trt
import torch

from engines.errors import BackendUnavailable
from engines.vision.buckets import POINTS, PROFILES
from engines.vision.config import VisionConfig, load_config
from engines.vision.engine_cache import EngineCache, EngineIdentity
from engines.vision.golden import BOUNDS, GOLDEN_FILE, Bounds, Golden, read_golden, require_faithful
from engines.vision.golden_inputs import golden_of
from engines.vision.onnx_cache import DECODER_FILE, ENCODER_FILE, PROMPTED_DECODER_FILE, exported
from engines.vision.recipe import ExportRecipe
from engines.vision.runtimes.cuda_driver import driver_version
from engines.vision.runtimes.device import DeviceRuntime, Networks
from engines.vision.runtimes.tensorrt_build import build
from engines.vision.runtimes.tensorrt_engine import Engine
from engines.vision.runtimes.torch_cpu import TorchRuntime

logger = logging.getLogger(__name__)

BUILD_VERSION = 1
"""Raise it when the code that builds engines changes what comes out of the same graphs."""
OLDEST = (10, 13)
RECIPE = ExportRecipe(block_precision="bf16")
TF32 = {ENCODER_FILE: True, DECODER_FILE: False, PROMPTED_DECODER_FILE: False}

Report = Callable[[str, str, int, int], None]
"""Called while engines are built with the graph's name, the phase, its finished steps and how many it has."""


def open_tensorrt(
    vision_dir: Path,
    cache_dir: Path,
    report: Report = lambda graph, phase, done, steps: None,
    bounds: Bounds = BOUNDS,
) -> DeviceRuntime:
    """The runtime on the first GPU; engines that this machine has not built yet are built first, which takes minutes.

    Raises:
        BackendUnavailable: no GPU, or a TensorRT that is too old.
        BundleError: the model is damaged, or its golden outputs are.
        GraphRejected: TensorRT cannot compile a graph.
        EngineRefused: the engines stray from the golden outputs, or are damaged.
        CacheFailed: the cache cannot be written.
    """
    device = first_gpu()
    config = load_config(vision_dir)
    golden = _golden(vision_dir)
    folder, identity = built(vision_dir, cache_dir, report)
    encoder, decoder, prompted = (
        Engine(folder / _plan(name), PROFILES[name], device) if name in graph_names(config) else None
        for name in PROFILES
    )
    assert encoder is not None
    assert prompted is not None
    runtime = DeviceRuntime(config, device, Networks(encoder, decoder, prompted), _about(identity))
    try:
        verdict = require_faithful(runtime, golden, bounds)
    except BaseException:
        runtime.close()
        raise
    logger.info("TensorRT engines in %s: %s", folder, verdict)
    return runtime


def built(vision_dir: Path, cache_dir: Path, report: Report) -> tuple[Path, EngineIdentity]:
    """The folder with the engines for this machine, built if need be, and what they are; see `open_tensorrt`."""
    graphs = exported(vision_dir, cache_dir, RECIPE)
    names = graph_names(load_config(vision_dir))
    cache = EngineCache(cache_dir / "engines")
    identity = EngineIdentity({**_graph_facts(graphs, names), **_machine_facts(first_gpu())})
    with cache.building(identity):
        if (folder := cache.find(identity)) is not None:
            return folder, identity
        logger.info("building TensorRT engines, once for this machine; this takes minutes")
        return cache.store(identity, _build_all(graphs, names, cache, report)), identity


def _golden(vision_dir: Path) -> Golden:
    """The bundle's own golden outputs; else what the torch reference, which is slow, makes now."""
    if (vision_dir / GOLDEN_FILE).exists():
        return read_golden(vision_dir)
    logger.info(
        "the bundle has no golden outputs: the torch reference makes them; `r2sm build` would keep them"
    )
    return golden_of(TorchRuntime(vision_dir))


def _build_all(graphs: Path, names: list[str], cache: EngineCache, report: Report) -> dict[str, bytes]:
    plans = {}
    for name in names:

        def progress(phase: str, done: int, steps: int, name: str = name) -> None:
            report(name, phase, done, steps)

        made = build(
            graphs / name, PROFILES[name], tf32=TF32[name], timings=cache.timings(), progress=progress
        )
        cache.keep_timings(made.timings)
        plans[_plan(name)] = made.plan
    return plans


def graph_names(config: VisionConfig) -> list[str]:
    """The graphs that a model of this config has."""
    return [name for name in PROFILES if name != DECODER_FILE or config.heatmap is not None]


def first_gpu() -> torch.device:
    """The device to run on. Raises `BackendUnavailable`."""
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < OLDEST:
        raise BackendUnavailable(f"TensorRT {trt.__version__} is too old: pip install 'tensorrt>=10.13'")
    if not torch.cuda.is_available():
        raise BackendUnavailable("the vision runtime tensorrt needs an NVIDIA GPU that torch can use")
    return torch.device("cuda", 0)


def _plan(graph: str) -> str:
    return graph.removesuffix(".onnx") + ".plan"


def _graph_facts(graphs: Path, names: list[str]) -> dict[str, str]:
    """What the engines are made of, and how."""
    content = hashlib.sha256()
    for file in sorted(graphs.iterdir()):  # with the weights that lie beside a graph
        with file.open("rb") as opened:
            content.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    profiles = {name: [asdict(profile) for profile in PROFILES[name]] for name in names}
    return {
        "graphs": content.hexdigest(),
        "recipe": json.dumps([BUILD_VERSION, RECIPE.describe(), TF32], sort_keys=True),
        "profiles": json.dumps([profiles, asdict(POINTS)], sort_keys=True),
    }


def _machine_facts(device: torch.device) -> dict[str, str]:
    """For which machine and by what they are made."""
    gpu = torch.cuda.get_device_properties(device)
    return {
        "tensorrt": trt.__version__,
        "driver": driver_version(),
        "cuda": str(torch.version.cuda),
        "gpu": gpu.name,
        "compute_capability": f"{gpu.major}.{gpu.minor}",
    }


def _about(identity: EngineIdentity) -> dict[str, str | int]:
    return {
        "runtime": "tensorrt",
        "version": identity.facts["tensorrt"],
        "device": identity.facts["gpu"],
        "encoder_precision": "bf16 blocks, fp32 norms",
        "decoder_precision": "fp32",
        "engines": identity.key,
    }
