"""Pictures with instances whose visible and complete shapes are known, and the questions made of their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engines.evaluation.datasets.files import Picture
from engines.evaluation.metrics import Mask, fuse
from engines.evaluation.questions import Fault, Question
from engines.events import MaskType

OCCLUDED = 0.05
"""An instance counts as occluded when more than this share of its complete shape cannot be seen."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One object: its masks [H, W], the visible part and the complete shape."""

    id: int
    name: str
    modal: Mask
    amodal: Mask

    @property
    def hidden(self) -> float:
        """The share of the complete shape that cannot be seen, 0 to 1."""
        area = int(self.amodal.sum())
        return int((self.amodal & ~self.modal).sum()) / area if area else 0.0

    @property
    def occluded(self) -> bool:
        """Whether so much of it is hidden that it counts."""
        return self.hidden > OCCLUDED


@dataclass(frozen=True, slots=True)
class AnnotatedPicture:
    """A picture with its instances; `crowds` are pixels of objects that nobody told apart."""

    name: str
    file_name: str
    picture: Picture
    instances: tuple[Instance, ...]
    crowds: Mask | None = None
    faults: tuple[Fault, ...] = ()


class Annotated(Protocol):
    """Pictures by name, with their instances."""

    def pictures(self) -> Sequence[str]:
        """The names of the pictures, in order."""

    def annotated(self, picture: str) -> AnnotatedPicture:
        """One picture with its instances.

        Raises:
            FaultyData: the picture itself cannot be used.
        """


def make_question(
    label: str,
    scene: AnnotatedPicture,
    prompt: str,
    mask_type: MaskType,
    targets: Sequence[Instance],
    form: str,
) -> Question:
    """A query about some instances of a picture."""
    return Question(
        label=label,
        image=scene.picture.data,
        shape=scene.picture.shape,
        prompt=prompt,
        mask_type=mask_type,
        truths=tuple(each.modal if mask_type == "modal" else each.amodal for each in targets),
        names=tuple(each.name for each in targets),
        form=form,
        picture=scene.name,
        hidden=fuse([each.amodal & ~each.modal for each in targets], scene.picture.shape),
        ignored=scene.crowds,
    )


def questions_by_name(scene: AnnotatedPicture, *, amodal: bool) -> tuple[Question, ...]:
    """One modal query for each name, meaning all instances of it; with `amodal` one more where any is occluded.

    What cannot be seen at all is meant by amodal queries only.
    """
    named: dict[str, list[Instance]] = {}
    for instance in scene.instances:
        named.setdefault(instance.name.lower(), []).append(instance)
    questions = []
    for name, members in named.items():
        seen = [each for each in members if each.modal.any()]
        if seen:
            prompt = f"Segment {_every(seen)} {name}."
            questions.append(
                make_question(f"{scene.name}.{name}.modal", scene, prompt, "modal", seen, "name")
            )
        if amodal and any(each.occluded for each in members):
            whole = f"Segment the complete shape of {_every(members)} {name}, with the parts that are hidden."
            questions.append(
                make_question(f"{scene.name}.{name}.amodal", scene, whole, "amodal", members, "name")
            )
    return tuple(questions)


def _every(members: Sequence[Instance]) -> str:
    return "the" if len(members) == 1 else "every"
