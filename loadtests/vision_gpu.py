"""The vision runtimes on an NVIDIA GPU: ``python -m loadtests.vision_gpu [--runtime torch] [--size demo|h]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from engines.errors import EngineError
from engines.vision.buckets import DEVICE_BUCKETS
from engines.vision.config import DecoderConfig, EncoderConfig, HeatmapConfig, VisionConfig
from engines.vision.golden import Bounds, judge, read_golden
from engines.vision.golden_inputs import make_golden
from engines.vision.model import VisionModel
from engines.vision.preprocess import Prepared
from engines.vision.runtimes import VisionRuntime, default_cache_dir, open_runtime
from engines.vision.runtimes.base import DecodeItem
from engines.vision.runtimes.cuda_driver import driver_version, usable_gpus

DEMO = Path(__file__).parents[1] / "engines" / "demo" / "bundle" / "vision"
VIT_H = VisionConfig(encoder=EncoderConfig(), decoder=DecoderConfig(), heatmap=HeatmapConfig(vector_dim=3584))
VIT_H_TFLOP = 5.9  # an image at 1024 pixels
ROUNDS = 20


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.vision_gpu", description=__doc__)
    parser.add_argument("--runtime", choices=("tensorrt", "torch"), action="append")
    parser.add_argument("--size", choices=("demo", "h"), default="h", help="h: ViT-H with random weights")
    parser.add_argument(
        "--tflops", type=float, default=790.0, help="of the GPU, bfloat16; an H200 by default"
    )
    options = parser.parse_args()
    if not usable_gpus():
        print("there is no NVIDIA GPU here: nothing was measured")
        return 1
    print(f"{torch.cuda.get_device_name(0)}, driver {driver_version()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        vision = Path(folder) / "vision"
        model = VisionModel.load(DEMO) if options.size == "demo" else VisionModel.from_config(VIT_H)
        model.save(vision)
        make_golden(vision)
        for name in options.runtime or ("tensorrt", "torch"):
            try:
                runtime = opened(name, vision)
            except (EngineError, ImportError) as error:
                print(f"{name}: {error}")
                continue
            measure(runtime, vision, VIT_H_TFLOP / options.tflops if options.size == "h" else None)
            runtime.close()
    return 0


def opened(name: str, vision: Path) -> VisionRuntime:
    """The runtime, however far it strays: that is printed, and random weights are no measure of it."""
    if name == "torch":
        return open_runtime("torch", vision)
    from engines.vision.runtimes.tensorrt import open_tensorrt

    return open_tensorrt(vision, default_cache_dir(), bounds=Bounds(mask_iou=0.0, prior_error=1.0))


def measure(runtime: VisionRuntime, vision: Path, ideal: float | None) -> None:
    """Print what a runtime is, how far it strays, and its latency for each bucket.

    `ideal` is the seconds that one image takes at the GPU's rate of arithmetic, if it is known.
    """
    print(runtime.info())
    print(f"  {judge(runtime, read_golden(vision))}")
    start = time.perf_counter()
    runtime.warm_up()
    print(f"  warm-up {time.perf_counter() - start:.1f} s")
    side = runtime.config.image_size
    generator = np.random.default_rng(0)
    image = Prepared(generator.integers(0, 256, (side, side, 3), dtype=np.uint8), (side, side), (side, side))
    for bucket in DEVICE_BUCKETS.encode:
        images = [image] * bucket
        seconds = timed(lambda images=images: runtime.encode(images))  # type: ignore[misc]
        share = f", {bucket * ideal / seconds:.0%} of the FLOP limit" if ideal else ""
        print(f"  encode {bucket:>3}: {seconds * 1e3:>8.2f} ms, {bucket / seconds:>7.1f} images/s{share}")
    [embedding] = runtime.encode([image])
    vectors = generator.standard_normal((DEVICE_BUCKETS.decode[-1], runtime.config.vector_dim))
    items = [DecodeItem(embedding, vector.astype(np.float32), image.size) for vector in vectors]
    for bucket in DEVICE_BUCKETS.decode:
        asked = items[:bucket]
        seconds = timed(lambda asked=asked: runtime.decode(asked))  # type: ignore[misc]
        print(f"  decode {bucket:>3}: {seconds * 1e3:>8.2f} ms, {bucket / seconds:>7.1f} masks/s")


def timed(run: Callable[[], object]) -> float:
    """The median of `ROUNDS` runs in seconds; every run ends with its results on the host or checked there."""
    run()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


if __name__ == "__main__":
    sys.exit(main())
