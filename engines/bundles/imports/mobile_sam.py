"""MobileSAM's TinyViT: its sizes, and its batch norms folded into the convolutions before them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from engines.bundles.imports.renaming import count
from engines.vision.config import TinyVitConfig

FIRST_TENSOR = "image_encoder.patch_embed.seq.0.c.weight"
"""A name that no other SAM has."""
CLASSIFIER = re.compile(r"^image_encoder\.(norm_head|head)\.")
"""TinyViT's classifier: it is in the file, but MobileSAM never calls it."""
NORM_EPS = 1e-5  # BatchNorm2d's


def tiny_vit_config(stored: Mapping[str, Tensor]) -> TinyVitConfig:
    """The sizes, from the shapes of MobileSAM's tensors; the size of the images is in none of them."""
    stages = count(stored, r"image_encoder\.layers\.(\d+)\.")
    layers = [f"image_encoder.layers.{number}" for number in range(stages)]
    first = stored["image_encoder.patch_embed.seq.2.c.weight"].shape[0]
    merged = [stored[f"{layer}.downsample.conv1.c.weight"].shape[0] for layer in layers[:-1]]
    biases = [stored[f"{layer}.blocks.0.attn.attention_biases"].shape for layer in layers[1:]]
    defaults = TinyVitConfig()
    return TinyVitConfig(
        widths=(first, *merged),
        depths=tuple(count(stored, rf"{re.escape(layer)}\.blocks\.(\d+)\.") for layer in layers),
        num_heads=(
            defaults.num_heads[0] if first % defaults.num_heads[0] == 0 else 1,
            *(h for h, _ in biases),
        ),
        window_sizes=(defaults.window_sizes[0], *(math.isqrt(cells) for _, cells in biases)),
        expansion=stored[f"{layers[0]}.blocks.0.conv1.c.weight"].shape[0] // first,
        mlp_ratio=stored[f"{layers[1]}.blocks.0.mlp.fc1.weight"].shape[0] // merged[0],
        output_channels=stored["image_encoder.neck.0.weight"].shape[0],
    )


def fold_norms(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every ``X.c`` and ``X.bn`` as one convolution ``X``; all else as it is, without the classifier."""
    result = {}
    for name, value in stored.items():
        if name.endswith(".c.weight") and name.removesuffix(".c.weight") + ".bn.weight" in stored:
            place = name.removesuffix(".c.weight")
            result[f"{place}.weight"], result[f"{place}.bias"] = _fold(value, stored, f"{place}.bn")
        elif not CLASSIFIER.match(name) and ".bn." not in name:
            result[name] = value
    return result


def _fold(weight: Tensor, stored: Mapping[str, Tensor], norm: str) -> tuple[Tensor, Tensor]:
    """The convolution that does both: (w, b) with the norm's scale in them."""
    scale = stored[f"{norm}.weight"] / torch.sqrt(stored[f"{norm}.running_var"] + NORM_EPS)
    return weight * scale[:, None, None, None], stored[f"{norm}.bias"] - stored[
        f"{norm}.running_mean"
    ] * scale
