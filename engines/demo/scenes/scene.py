"""What a scene is: an image and the objects in it, back to front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KINDS = (
    "mug",
    "bottle",
    "box",
    "ball",
    "book",
    "plate",
    "vase",
    "apple",
    "banana",
    "lamp",
    "clock",
    "key",
    "hat",
    "teapot",
)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
TRAINING_SEEDS = range(1_000_000)
"""Seeds the shipped bundle may be trained on; evaluation uses others."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object: `amodal` and `modal` are bool [H, W], both within the frame.

    `hidden` is the covered share of the amodal area (0..1); `covered_by` holds the indices of the objects
    that visibly cover at least 1 % of it, the one covering most first; `centre` is the amodal mask's
    centroid as (x, y) in 0..1.
    """

    kind: str
    colour: str
    amodal: NDArray[np.bool_]
    modal: NDArray[np.bool_]
    hidden: float
    covered_by: tuple[int, ...]
    centre: tuple[float, float]

    @property
    def seen_centre(self) -> tuple[float, float]:
        """The centroid of what can be seen as (x, y) in 0..1; `centre` where nothing can."""
        columns, rows = self.modal.sum(0), self.modal.sum(1)
        if not (area := int(columns.sum())):
            return self.centre
        x, y = ((np.arange(len(line)) + 0.5) @ line / area / len(line) for line in (columns, rows))
        return float(x), float(y)

    @property
    def name(self) -> str:
        """Colour and kind, as in "red mug"."""
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, slots=True)
class Scene:
    """`image` is RGB uint8 [H, W, 3]; `objects` are ordered back to front."""

    seed: int
    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
