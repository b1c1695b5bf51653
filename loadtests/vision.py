"""The vision runtimes on this CPU, as ratios within one run: ``python -m loadtests.vision [--vit-b]``."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.sam.modeling_sam import SamVisionEncoder

from engines.vision import masks
from engines.vision.config import DecoderConfig, EncoderConfig, HeatmapConfig, VisionConfig
from engines.vision.model import VisionModel
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import DecodeItem
from engines.vision.runtimes.openvino import OpenVinoRuntime

DEMO = Path(__file__).parents[1] / "engines" / "demo" / "bundle" / "vision"
VIT_B = VisionConfig(
    encoder=EncoderConfig(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        mlp_dim=3072,
        global_attn_indexes=(2, 5, 8, 11),
    ),
    decoder=DecoderConfig(),
    heatmap=HeatmapConfig(vector_dim=2048),
)
PROMPTS = 16
PRODUCT = 2048
"""Rows and columns of the matrices of a product."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.vision", description=__doc__)
    parser.add_argument("--vit-b", action="store_true", help="SAM ViT-B with random weights (minutes)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        vision = DEMO
        if options.vit_b:
            vision = Path(folder) / "vit_b"
            VisionModel.from_config(VIT_B).save(vision)
        measure(vision, Path(folder) / "cache", options.rounds, options.threads)


def measure(vision: Path, cache: Path, rounds: int, threads: int | None) -> None:
    """Print every ratio, with its aim."""
    OpenVinoRuntime(vision, cache, threads).close()  # exports and compiles
    start = time.perf_counter()
    runtime = OpenVinoRuntime(vision, cache, threads)
    again = time.perf_counter() - start
    print(f"second start                                        {again:>7.2f} s   (aim ≤ 1 at the demo size)")
    side = runtime.config.image_size
    generator = np.random.default_rng(0)
    image = Prepared(generator.integers(0, 256, (side, side, 3), dtype=np.uint8), (side, side), (side, side))
    eager = eager_encoder(vision)
    pixels = torch.randn(1, 3, side, side)
    told = runtime.info()["encoder_precision"]
    ratio = timed(lambda: eager(pixels), rounds) / timed(lambda: runtime.encode([image]), rounds)
    print(f"transformers' eager encoder / OpenVINO's ({told})     {ratio:>7.2f}     (aim ≥ 5 at ViT-B)")
    [embedding] = runtime.encode([image])
    vectors = generator.standard_normal((PROMPTS, runtime.config.vector_dim)).astype(np.float32)
    items = [DecodeItem(embedding, vector, image.size) for vector in vectors]
    together = timed(lambda: runtime.decode(items), rounds)
    apart = timed(lambda: [runtime.decode([item]) for item in items], rounds)
    print(f"{PROMPTS} single decodes / one batch of them              {apart / together:>7.2f}     (aim ≥ 3)")
    most = product_rate(rounds) * apart / (PROMPTS * decode_flops(vision, embedding.values, items[0].size))
    print(f"the same, were a batch as fast as one matrix product {most:>6.2f}")
    y, x = np.mgrid[:256, :256]
    disc = (60 - np.hypot(y - 96, x - 128)).astype(np.float32)
    print(
        f"a 12-megapixel mask finished / pycocotools alone    {finishing(disc, rounds):>7.2f}     (aim ≤ 1.3)"
    )
    noise = generator.standard_normal(disc.shape).astype(np.float32)
    print(f"the same of nothing but noise                       {finishing(noise, rounds):>7.2f}")


def eager_encoder(vision: Path) -> Callable[[torch.Tensor], object]:
    """transformers' own SAM encoder with its written-out attention, on the same weights."""
    encoder: Any = VisionModel.load(vision).image_encoder
    config = encoder.config
    config._attn_implementation = "eager"
    theirs = SamVisionEncoder(config).eval()
    theirs.load_state_dict(encoder.state_dict())

    @torch.inference_mode()
    def run(pixels: torch.Tensor) -> object:
        return theirs(pixels)

    return run


def decode_flops(vision: Path, values: NDArray[np.float32], size: tuple[int, int]) -> int:
    """Floating-point operations of one decode."""
    model = VisionModel.load(vision)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.decode(
            torch.from_numpy(values)[None], torch.zeros(1, model.config.vector_dim), torch.tensor([size])
        )
    return int(counter.get_total_flops())


def product_rate(rounds: int) -> float:
    """Floating-point operations a second of one large fp32 matrix product."""
    one = torch.randn(PRODUCT, PRODUCT)
    return 2 * PRODUCT**3 / timed(lambda: one @ one, rounds)


def finishing(logits: NDArray[np.float32], rounds: int) -> float:
    """From logits to a mask, over the run-length code of the same mask when it is ready in column order."""
    size, original = (768, 1024), (3000, 4000)
    ready = masks.decode(masks.finish(logits, size, original).rle).view(np.uint8)
    alone = timed(lambda: coco.encode(ready), rounds)
    return timed(lambda: masks.finish(logits, size, original), rounds) / alone


def timed(run: Callable[[], object], rounds: int) -> float:
    """The median of `rounds` runs in seconds, after one that does not count."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


if __name__ == "__main__":
    main()
