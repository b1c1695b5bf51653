"""What becomes of one query: the answer that came back, and how it scores against the truth."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engines.errors import EngineError
from engines.evaluation.metrics import (
    Mask,
    Overlap,
    Query,
    boundary_overlap,
    box_iou,
    box_of,
    fuse,
    instance_ious,
    mean,
    overlap,
)
from engines.evaluation.questions import Question
from engines.events import DecisionSource, MaskType, Rle
from engines.vision.masks import decode, encode

NO_INSTANCES = Query((), (), ())


class QueryFailed(EngineError):
    """The server gave no answer to a query; the message says why.

    `again` tells whether to ask once more, `wait` how many seconds the server wants to be left alone before that.
    """

    def __init__(self, message: str, *, again: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.again = again
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers: masks by type, in the order of its objects; stages in milliseconds.

    `scores` are the masks' predicted IoUs, in the same order. `confidence` is the probability of `mask_type`,
    which `source` chose. `heatmap` is the heatmap's part above one half, over the whole picture.
    """

    mask_type: MaskType
    reasoning: str
    masks: Mapping[MaskType, list[Rle]]
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[MaskType, list[float]] = field(default_factory=dict)
    confidence: float | None = None
    source: DecisionSource = "model"
    heatmap: Rle | None = None


Segment = Callable[[Question], Awaitable[Answer]]
"""Asks a server one question; raises QueryFailed when no answer comes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one query scored.

    A failed query counts as a wrong one everywhere: no decision, no overlap, nothing named. `source` says who decided,
    None where nobody did. `named` is None where the truth has no names. `instance_iou` is
    the mean over the targets; None without targets. `box_iou` is that of a single target's box with the box of
    all masks together. `boundary` compares the outlines, None without targets. `occluded` tells whether the targets
    have something hidden, `hidden_iou` compares it: None where the truth or the answer does not tell. `latency_ms` is
    None for a failed query.
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
    named: bool | None
    latency_ms: float | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    picture: str = ""
    entry: str = ""
    confidence: float | None = None
    source: DecisionSource | None = None
    instances: Query = NO_INSTANCES
    boundary: Overlap | None = None
    box_iou: float | None = None
    occluded: bool = False
    hidden_iou: float | None = None
    heatmap_iou: float | None = None

    @property
    def decided_right(self) -> bool:
        """Whether the server chose the mask type that the prompt asks for."""
        return self.decided == self.wanted

    @property
    def answered_none(self) -> bool:
        """Whether the server answered that there is no such object."""
        return self.error is None and self.masks == 0


def score(question: Question, answer: Answer, latency_ms: float | None) -> Outcome:
    """Compare an answer with the truth; masks of the type that the prompt asks for count, if there are any.

    Raises:
        QueryFailed: a mask is not of the picture's size, or there are not as many scores as masks.
    """
    chosen = question.mask_type if answer.masks.get(question.mask_type) else answer.mask_type
    codes = answer.masks.get(chosen, [])
    found = {chosen: _decode(codes, question)}
    masks = found[chosen]
    truths = [_counted(truth, question) for truth in question.truths]
    fused, truth = fuse(masks, question.shape), fuse(truths, question.shape)
    scores = answer.scores.get(chosen) or [1.0] * len(masks)
    if len(scores) != len(masks):
        raise QueryFailed(f"there are {len(scores)} scores for {len(masks)} masks")
    return Outcome(
        label=question.label,
        prompt=question.prompt,
        form=question.form,
        wanted=question.mask_type,
        targets=len(question.truths),
        decided=answer.mask_type,
        masks=len(masks),
        overlap=overlap(fused, truth),
        instance_iou=mean(instance_ious(masks, truths)),
        named=_named(question, answer.reasoning),
        latency_ms=latency_ms,
        timings_ms=answer.timings_ms,
        picture=question.picture,
        entry=question.entry or question.picture,
        confidence=answer.confidence,
        source=answer.source,
        instances=_instances(question, truths, masks, codes, scores),
        boundary=boundary_overlap(fused, truth) if truths else None,
        box_iou=_box_iou(question, fused, truth),
        occluded=_occluded(question),
        hidden_iou=_hidden_iou(question, answer, found),
        heatmap_iou=_heatmap_iou(question, answer, truth),
    )


def _named(question: Question, reasoning: str) -> bool | None:
    """Whether every name is there as words of its own: "cat" is not in "located"."""
    found = (
        re.search(rf"(?<!\w){re.escape(name)}(?!\w)", reasoning, re.IGNORECASE) for name in question.names
    )
    return all(found) if question.names else None


def _instances(
    question: Question,
    truths: Sequence[Mask],
    masks: Sequence[Mask],
    codes: Sequence[Rle],
    scores: Sequence[float],
) -> Query:
    """What AP compares. A mask of which nothing is left but what is ignored is no false positive, as COCO has it."""
    if question.ignored is None:
        return Query(_encode(truths), tuple(codes), tuple(scores))
    found = zip(masks, codes, scores, strict=True)
    left = [(mask, score) for mask, code, score in found if mask.any() or not decode(code).any()]
    return Query(_encode(truths), _encode([mask for mask, _ in left]), tuple(score for _, score in left))


def failure(question: Question, error: str) -> Outcome:
    """The outcome of a query that got no answer: its truth, if empty, counts as one missed pixel."""
    truths = [_counted(truth, question) for truth in question.truths]
    fused = fuse(truths, question.shape)
    nothing = np.zeros_like(fused)
    missed = int(np.count_nonzero(fused))
    return Outcome(
        label=question.label,
        prompt=question.prompt,
        form=question.form,
        wanted=question.mask_type,
        targets=len(question.truths),
        decided=None,
        masks=0,
        overlap=Overlap(0, max(missed, 1)),
        instance_iou=0.0 if question.truths else None,
        named=False if question.names else None,
        error=error,
        picture=question.picture,
        entry=question.entry or question.picture,
        instances=Query(_encode(truths), (), ()),
        boundary=boundary_overlap(nothing, fused) if truths else None,
        box_iou=0.0 if len(truths) == 1 else None,
        occluded=_occluded(question),
    )


def _decode(codes: Sequence[Rle], question: Question) -> list[Mask]:
    for code in codes:
        if tuple(code["size"]) != question.shape:
            raise QueryFailed(f"a mask is {tuple(code['size'])}, the picture {question.shape}")
    try:
        return [_counted(decode(code), question) for code in codes]
    except ValueError as error:  # the text is no run-length code
        raise QueryFailed(f"a mask cannot be decoded: {error}") from error


def _counted(mask: Mask, question: Question) -> Mask:
    return mask if question.ignored is None else mask & ~question.ignored


def _encode(masks: Sequence[Mask]) -> tuple[Rle, ...]:
    return tuple(encode(mask).rle for mask in masks)


def _box_iou(question: Question, fused: Mask, truth: Mask) -> float | None:
    if len(question.truths) != 1:
        return None
    return box_iou(box_of(fused), question.box or box_of(truth))


def _occluded(question: Question) -> bool:
    return question.hidden is not None and bool(question.hidden.any())


def _hidden_iou(
    question: Question, answer: Answer, decoded: Mapping[MaskType, Sequence[Mask]]
) -> float | None:
    """The overlap of what is hidden: amodal minus modal of each object, where the answer has both.

    `decoded` are the masks of the types that are decoded already.
    """
    modal, amodal = answer.masks.get("modal", []), answer.masks.get("amodal", [])
    if question.hidden is None or not _occluded(question) or not modal or len(modal) != len(amodal):
        return None
    seen = decoded["modal"] if "modal" in decoded else _decode(modal, question)
    whole = decoded["amodal"] if "amodal" in decoded else _decode(amodal, question)
    found = fuse([one & ~other for one, other in zip(whole, seen, strict=True)], question.shape)
    return overlap(found, _counted(question.hidden, question)).iou


def _heatmap_iou(question: Question, answer: Answer, truth: Mask) -> float | None:
    if answer.heatmap is None or not question.truths:
        return None
    [heat] = _decode([answer.heatmap], question)
    return overlap(heat, truth).iou
