"""What becomes of one query: the answer that came back, and how it scores against the truth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineError
from engines.evaluation.metrics import Overlap, fuse, instance_ious, mean, overlap
from engines.events import MaskType, Rle
from engines.vision.masks import decode

Mask = NDArray[np.bool_]


class QueryFailed(EngineError):
    """The server gave no answer to a query; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers: masks by type, in the order of its objects; stages in milliseconds."""

    mask_type: MaskType
    reasoning: str
    masks: Mapping[MaskType, list[Rle]]
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """One query with its truth.

    `image` is an encoded picture of `shape` (H, W). `truths` are the targets' masks [H, W], of the type that
    `mask_type` names; none: no such object is there. `names` are the targets' ("red mug").
    """

    label: str
    image: bytes
    shape: tuple[int, int]
    prompt: str
    mask_type: MaskType
    truths: tuple[Mask, ...]
    names: tuple[str, ...]
    form: str


Segment = Callable[[Question], Awaitable[Answer]]
"""Asks a server one question; raises QueryFailed when no answer comes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one query scored.

    A failed query counts as a wrong one everywhere: no decision, no overlap, nothing named. `instance_iou` is
    the mean over the targets; None without targets. `latency_ms` is None for a failed query.
    """

    label: str
    prompt: str
    form: str
    wanted: MaskType
    targets: int
    decided: MaskType | None
    masks: int
    overlap: Overlap
    instance_iou: float | None
    named: bool
    latency_ms: float | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def decided_right(self) -> bool:
        """Whether the server chose the mask type that the prompt asks for."""
        return self.decided == self.wanted

    @property
    def answered_none(self) -> bool:
        """Whether the server answered that there is no such object."""
        return self.error is None and self.masks == 0


def score(question: Question, answer: Answer, latency_ms: float) -> Outcome:
    """Compare an answer with the truth; masks of the type that the prompt asks for count, if there are any.

    Raises:
        QueryFailed: a mask is not of the picture's size.
    """
    codes = answer.masks.get(question.mask_type) or answer.masks.get(answer.mask_type, [])
    masks = [decode(code) for code in codes]
    try:
        fused = fuse(masks, question.shape)
    except ValueError as error:
        raise QueryFailed(str(error)) from error
    return Outcome(
        label=question.label,
        prompt=question.prompt,
        form=question.form,
        wanted=question.mask_type,
        targets=len(question.truths),
        decided=answer.mask_type,
        masks=len(masks),
        overlap=overlap(fused, fuse(question.truths, question.shape)),
        instance_iou=mean(instance_ious(masks, question.truths)),
        named=all(name in answer.reasoning for name in question.names),
        latency_ms=latency_ms,
        timings_ms=answer.timings_ms,
    )


def failure(question: Question, error: str) -> Outcome:
    """The outcome of a query that got no answer: its truth, if empty, counts as one missed pixel."""
    truth = int(np.count_nonzero(fuse(question.truths, question.shape)))
    return Outcome(
        label=question.label,
        prompt=question.prompt,
        form=question.form,
        wanted=question.mask_type,
        targets=len(question.truths),
        decided=None,
        masks=0,
        overlap=Overlap(0, max(truth, 1)),
        instance_iou=0.0 if question.truths else None,
        named=False,
        error=error,
    )
