"""The vision runtimes on an NVIDIA GPU, each batch size against what its arithmetic allows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from engines.errors import EngineError
from engines.vision.buckets import DEVICE_BUCKETS
from engines.vision.config import DecoderConfig, EncoderConfig, HeatmapConfig, VisionConfig
from engines.vision.golden import Bounds, judge, read_golden
from engines.vision.golden_inputs import make_golden
from engines.vision.model import VisionModel
from engines.vision.preprocess import Prepared
from engines.vision.runtimes import VisionRuntime, default_cache_dir, open_runtime
from engines.vision.runtimes.base import DecodeItem
from loadtests.gpu.lines import Printer
from server.settings import DEMO_BUNDLE

DEMO = DEMO_BUNDLE / "vision"
VIT_H = VisionConfig(encoder=EncoderConfig(), decoder=DecoderConfig(), heatmap=HeatmapConfig(vector_dim=3584))
VIT_H_TFLOP = 5.9  # an image at 1024 pixels
ROUNDS = 20


def measure_all(
    names: Sequence[str], size: Literal["demo", "h"], tflops: float, printer: Printer
) -> Iterator[str]:
    """Measure each runtime; yields why one cannot be. `tflops` is what the GPU computes in bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        vision = Path(folder) / "vision"
        model = VisionModel.load(DEMO) if size == "demo" else VisionModel.from_config(VIT_H)
        model.save(vision)
        make_golden(vision)
        for name in names:
            try:
                runtime = opened(name, vision)
            except (EngineError, ImportError) as error:
                yield f"{name}: {error}"
                continue
            try:
                measure(runtime, vision, VIT_H_TFLOP / tflops if size == "h" else None, printer)
            finally:
                runtime.close()


def opened(name: str, vision: Path) -> VisionRuntime:
    """The runtime, however far it strays: that is printed, and random weights are no measure of it."""
    if name == "torch":
        return open_runtime("torch", vision)
    from engines.vision.runtimes.tensorrt import open_tensorrt

    return open_tensorrt(vision, default_cache_dir(), bounds=Bounds(mask_iou=0.0, prior_error=1.0))


def measure(runtime: VisionRuntime, vision: Path, ideal: float | None, printer: Printer) -> None:
    """Print what a runtime is, how far it strays, and its latency for each bucket.

    `ideal` is the seconds that one image takes at the GPU's rate of arithmetic, if it is known.
    """
    info = runtime.info()
    about = {"runtime": info["runtime"]}
    start = time.perf_counter()
    runtime.warm_up()
    warm = round(time.perf_counter() - start, 1)
    judged = str(judge(runtime, read_golden(vision)))
    printer.tell(figure="vision_warm_up", unit="s", value=warm, judged=judged, info=info, **about)
    side = runtime.config.image_size
    generator = np.random.default_rng(0)
    image = Prepared(generator.integers(0, 256, (side, side, 3), dtype=np.uint8), (side, side), (side, side))
    for bucket in DEVICE_BUCKETS.encode:
        images = [image] * bucket
        seconds = timed(lambda images=images: runtime.encode(images))  # type: ignore[misc]
        limit = {
            "limit": round(bucket * (ideal or 0.0) * 1e3, 3),
            "of_limit": round(bucket * (ideal or 0.0) / seconds, 3),
        }
        tell(printer, "encode", bucket, seconds, {**about, **(limit if ideal else {})})
    [embedding] = runtime.encode([image])
    vectors = generator.standard_normal((DEVICE_BUCKETS.decode[-1], runtime.config.vector_dim))
    items = [DecodeItem(embedding, vector.astype(np.float32), image.size) for vector in vectors]
    for bucket in DEVICE_BUCKETS.decode:
        asked = items[:bucket]
        seconds = timed(lambda asked=asked: runtime.decode(asked))  # type: ignore[misc]
        tell(printer, "decode", bucket, seconds, about)


def tell(printer: Printer, figure: str, batch: int, seconds: float, more: Mapping[str, object]) -> None:
    """A batch's line."""
    rate = round(batch / seconds, 1)
    printer.tell(
        figure=figure, batch=batch, unit="ms", value=round(seconds * 1e3, 3), per_second=rate, **more
    )


def timed(run: Callable[[], object]) -> float:
    """The median of `ROUNDS` runs in seconds; every run ends with its results on the host or checked there."""
    run()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)
