"""The demo data set: queries about procedural scenes that no training run has seen."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.demo.language import Query, ask
from engines.demo.scenes import TRAINING_SEEDS, Scene, SceneObject, render_scene
from engines.errors import InvalidInput
from engines.evaluation.metrics import Mask, fuse
from engines.evaluation.questions import Question, Reading


@dataclass(frozen=True, slots=True)
class DemoSet:
    """`limit` scenes from seed `seed` on, with `queries_per_scene` queries each.

    Raises:
        InvalidInput: there would be no query, or a seed that belongs to training.
    """

    seed: int
    limit: int
    queries_per_scene: int = 1

    def __post_init__(self) -> None:
        if self.limit < 1 or self.queries_per_scene < 1:
            raise InvalidInput("an evaluation needs at least one scene and one query for each")
        if self.seed < TRAINING_SEEDS.stop:
            raise InvalidInput(f"seeds below {TRAINING_SEEDS.stop} are for training, evaluation uses others")

    def __len__(self) -> int:
        return self.limit * self.queries_per_scene

    def scenes(self) -> range:
        """The seeds of the scenes."""
        return range(self.seed, self.seed + self.limit)

    def pictures(self) -> list[str]:
        """The seeds as names."""
        return [str(seed) for seed in self.scenes()]

    def read(self, picture: str) -> Reading:
        """The questions about one scene."""
        return Reading(tuple(self.questions(int(picture))))

    def questions(self, seed: int) -> Iterator[Question]:
        """The questions about the scene of a seed; the same for the same seed, always."""
        scene = render_scene(seed)
        image = encode_png(scene.image)
        for index, query in enumerate(ask(scene, random.Random(seed), self.queries_per_scene)):
            yield make_question(f"{seed}.{index}", scene, query, image)


def make_question(label: str, scene: Scene, query: Query, image: bytes) -> Question:
    """A query about a scene with its true masks."""
    targets = [scene.objects[index] for index in query.targets]
    return Question(
        label=label,
        image=image,
        shape=(scene.image.shape[0], scene.image.shape[1]),
        prompt=query.prompt,
        mask_type=query.mask_type,
        truths=tuple(target.modal if query.mask_type == "modal" else target.amodal for target in targets),
        names=tuple(f"the {target.name}" for target in targets),
        form=query.form,
        picture=str(scene.seed),
        hidden=_hidden(targets, (scene.image.shape[0], scene.image.shape[1])),
    )


def _hidden(targets: list[SceneObject], shape: tuple[int, int]) -> Mask:
    return fuse([target.amodal & ~target.modal for target in targets], shape)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """An RGB picture [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
