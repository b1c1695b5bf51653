"""What is asked of a server: one query about one picture, with the truth about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from engines.errors import InvalidInput
from engines.evaluation.metrics import Box, Mask
from engines.events import MaskType

FaultKind = Literal[
    "missing_image",
    "unreadable_image",
    "unreadable_file",
    "wrong_size",
    "bad_mask",
    "missing_field",
    "wrong_field",
    "empty_query",
    "unknown_type",
    "bad_answer",
    "dangling_instance",
    "wrong_class",
    "results_line",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in a data set, or in a file of results, that cannot be used: what, where, and why."""

    kind: FaultKind
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class FaultyData(InvalidInput):
    """A data set cannot be read as it is; `fault` says where and why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Question:
    """One query with its truth.

    `image` is an encoded picture of `shape` (H, W). `truths` are the targets' masks [H, W], of the type that
    `mask_type` names; none: no such object is there. `names` are the targets' as reasoning calls them ("the red
    mug"). `hidden` is what the targets have that cannot be seen, together; None where the data set does not know.
    `ignored` are pixels that do not count. `box` is the annotated box of a single target. `picture` is the same for
    all queries about one picture; `entry` is the name by which the data set reads this one, where that is another.
    """

    label: str
    image: bytes
    shape: tuple[int, int]
    prompt: str
    mask_type: MaskType
    truths: tuple[Mask, ...]
    names: tuple[str, ...]
    form: str
    picture: str = ""
    entry: str = ""
    hidden: Mask | None = None
    ignored: Mask | None = None
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one picture of a data set gives: questions, and what could not be used."""

    questions: tuple[Question, ...] = ()
    faults: tuple[Fault, ...] = ()


class DataSet(Protocol):
    """Pictures by name, and the questions about each. Reading is repeatable and safe from several threads."""

    def pictures(self) -> Sequence[str]:
        """The names of the pictures, in order."""

    def read(self, picture: str) -> Reading:
        """The questions about one picture. What cannot be used is a fault, not an exception."""
