"""The sample queries that the demo shows: a modal, an amodal and a both-masks prompt."""

from __future__ import annotations

from dataclasses import dataclass

from engines.demo.scenes import render_scene
from engines.evaluation.datasets.demo import encode_png
from engines.request import MaskChoice

LONGEST = 640  # pixels


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt about the scene of a seed; `target` is the object meant ("green mug")."""

    name: str
    seed: int
    prompt: str
    target: str
    mask_type: MaskChoice = "auto"

    def image(self) -> bytes:
        """The scene as PNG."""
        return encode_png(render_scene(self.seed, longest=LONGEST).image)


SAMPLES = (
    Sample("modal", 30_000_051, "Please mark the black clock.", "black clock"),
    Sample(
        "amodal", 30_000_012, "I want the whole green mug, even where the yellow book hides it.", "green mug"
    ),
    Sample("both", 30_000_020, "Segment the green plate behind the white bottle.", "green plate", "both"),
)
