"""A LoRA adapter as PEFT publishes it, to be added to the weights it was trained beside (Hu et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from engines.bundles.checks import Shape, read_json
from engines.bundles.imports.checkpoints import read_tensors
from engines.bundles.imports.language_model import published_name
from engines.errors import BundleError, CheckpointError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WRAPPING = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
PLAIN = {
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}
"""What the settings of a plain LoRA say, where they say anything; others are not what `Lora.merged` computes."""


@dataclass(frozen=True, slots=True)
class Lora:
    """Pairs of matrices, (r, in) and (out, r), by the published names of the weights they change."""

    path: Path
    scale: float
    pairs: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def read(cls, path: Path) -> Lora:
        """The adapter in a folder.

        Raises:
            CheckpointError: a file is missing or damaged, or it is another kind of adapter.
        """
        try:
            config = read_json(path / CONFIG)
        except BundleError as error:
            raise CheckpointError(str(error)) from error
        if config.get("peft_type") != "LORA":
            raise CheckpointError(f"{path / CONFIG}: a {config.get('peft_type')}, and not a LoRA")
        for name, plain in PLAIN.items():
            if (said := config.get(name) or plain) != plain:
                raise CheckpointError(f"{path / CONFIG}: {name} is {said}: no plain LoRA")
        try:
            rank, alpha = int(config["r"]), float(config["lora_alpha"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path / CONFIG}: lacks or garbles {error}") from error
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        return cls(path, scale, _pairs(path / WEIGHTS, rank))

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Refuse what does not fit weights of these shapes."""
        strange = sorted(self.pairs.keys() - shapes.keys())
        if strange:
            raise CheckpointError(f"{self.path}: the base model has no {', '.join(strange)}")
        for name, (down, up) in self.pairs.items():
            if (up.shape[0], down.shape[1]) != shapes[name]:
                told = f"{name} is {shapes[name]}, in the adapter {(up.shape[0], down.shape[1])}"
                raise CheckpointError(f"{self.path}: the base model is of another size: {told}")

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """`weight` with the adapter in it, float32 where it has one: W + scale · B A."""
        if name not in self.pairs:
            return weight
        down, up = self.pairs[name]
        return weight.float() + self.scale * (up.float() @ down.float())


def _pairs(file: Path, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    tensors = read_tensors(file)
    halves: dict[str, dict[str, Tensor]] = {}
    for stored, value in tensors.items():
        side = next((end for end in (DOWN, UP) if stored.endswith(end)), None)
        if side is None or not stored.startswith(WRAPPING):
            raise CheckpointError(f"{file}: {stored} is no part of a plain LoRA")
        if value.ndim != 2 or value.shape[0 if side == DOWN else 1] != rank:
            raise CheckpointError(f"{file}: {stored} is {tuple(value.shape)}, not of rank {rank}")
        place = published_name(stored.removeprefix(WRAPPING).removesuffix(side))
        halves.setdefault(f"{place}.weight", {})[side] = value
    for name, pair in halves.items():
        if len(pair) != 2:
            raise CheckpointError(f"{file}: holds one half of the pair for {name}")
    return {name: (pair[DOWN], pair[UP]) for name, pair in halves.items()}
