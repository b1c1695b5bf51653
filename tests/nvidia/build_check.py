"""Compiles a bundle's graphs with NVIDIA's own builder on the CPU: ``python -m tests.nvidia.build_check``.

The builder is TensorRT for RTX, behind TensorRT's Python bindings: not TensorRT itself, and what it builds cannot be
run here. It shows that the graphs parse and compile, with their profiles, and how much memory they take.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engines.errors import GraphRejected
from engines.vision.buckets import PROFILES
from engines.vision.onnx_cache import export_to
from engines.vision.recipe import ExportRecipe
from engines.vision.runtimes import default_cache_dir
from tests.nvidia.libraries import Unavailable, bindings_and_builder

DEMO = Path(__file__).parents[2] / "engines" / "demo" / "bundle"
MIB = 2**20
BUILD_SECONDS = 1800.0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.nvidia.build_check", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=DEMO)
    parser.add_argument("--graphs", type=Path, help="graphs that were exported already")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return check(options.graphs)
    try:
        libraries = bindings_and_builder(default_cache_dir().parent / "nvidia")
    except Unavailable as error:
        print(f"SKIPPED: the graphs were not compiled: {error}")
        return 0
    environment = libraries.environment | {"PYTHONPATH": f"{libraries.bindings}{os.pathsep}{os.getcwd()}"}
    with tempfile.TemporaryDirectory() as folder:
        graphs = options.graphs or Path(folder) / "graphs"
        if options.graphs is None:
            export_to(graphs, options.bundle / "vision", ExportRecipe(block_precision="bf16"))
        this = [sys.executable, "-m", "tests.nvidia.build_check", "--inside", "--graphs", str(graphs)]
        return subprocess.run(this, env=environment, timeout=BUILD_SECONDS, check=False).returncode


def check(graphs: Path) -> int:
    """Compile each graph and print a line of it; then see that half a graph is refused."""
    sys.modules["tensorrt"] = importlib.import_module("tensorrt_bindings")
    from engines.vision.runtimes import tensorrt_build as builder

    print(f"{'graph':<24}{'layers':>8}{'seconds':>9}{'engine MiB':>12}  scratch MiB of each profile")
    for name in PROFILES:
        if not (graphs / name).exists():
            continue
        log, start = builder.Log(), time.monotonic()
        built = builder.build(graphs / name, PROFILES[name], tf32=name == "encoder.onnx", log=log)
        scratch = [int(note.split()[-2]) / MIB for note in log.notes if note.startswith("Max Scratch Memory")]
        profiles = [f"{p.least}–{p.most}: {mib:.0f}" for p, mib in zip(PROFILES[name], scratch, strict=False)]
        seconds, size = time.monotonic() - start, len(built.plan) / MIB
        print(f"{name:<24}{built.layers:>8}{seconds:>9.1f}{size:>12.1f}  {', '.join(profiles)}", flush=True)
    return 0 if _refuses_half_a_graph(graphs / "encoder.onnx", builder.build) else 1


def _refuses_half_a_graph(graph: Path, build: object) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        half = Path(folder) / "half.onnx"
        content = graph.read_bytes()
        half.write_bytes(content[: len(content) // 2])
        assert callable(build)
        try:
            build(half, PROFILES["encoder.onnx"], tf32=True)
        except GraphRejected as error:
            print(f"half a graph is refused: {error}")
            return True
    print("half a graph was compiled")
    return False


if __name__ == "__main__":
    sys.exit(main())
