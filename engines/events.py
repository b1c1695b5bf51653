"""The typed events a request's pipeline yields, in the order a client may see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

MaskType = Literal["modal", "amodal"]
DecisionSource = Literal["model", "question", "grounder", "request"]
"""Who decided: the model's own token, a word it was asked for, the grounder that can do but one, the request."""


class Rle(TypedDict):
    """COCO run-length code: `size` is [height, width], `counts` the compressed string."""

    size: list[int]
    counts: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request was admitted and its image decoded. `digest` is ``sha256:<hex>``; sizes in pixels."""

    digest: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the text between `<think>` and `</think>`; `tokens` have been written up to its end."""

    text: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class DecisionMade:
    """Which mask the prompt asks for.

    `confidence` is the probability of `mask_type` among the two, normalised over the two; 1 when nobody was
    asked. `objects` is how many objects will get a mask. `warnings` say, for people, what the model cannot do.
    """

    mask_type: MaskType
    confidence: float
    source: DecisionSource
    objects: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HeatmapReady:
    """The positional prior of one object: `probabilities` float32 [h, w] in 0..1 over the image's area."""

    object: int
    mask_type: MaskType
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MaskReady:
    """One mask: `bbox` is [x, y, width, height] in pixels, `area` in pixels, `score` the predicted IoU."""

    object: int
    mask_type: MaskType
    rle: Rle
    bbox: list[float]
    area: int
    score: float


@dataclass(frozen=True, slots=True)
class MaskDrafted:
    """An early guess at a mask, made when the reasoning had `reasoning_tokens`; `number` counts drafts from 0."""

    number: int
    object: int
    mask_type: MaskType
    rle: Rle
    bbox: list[float]
    area: int
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class DraftScore:
    """How good a draft was: its `iou` with the final mask, None where no mask of that object and type came."""

    number: int
    object: int
    mask_type: MaskType
    reasoning_tokens: int
    iou: float | None


@dataclass(frozen=True, slots=True)
class HiddenReady:
    """The hidden part of one object, amodal minus modal. `fraction` is its share of the amodal area."""

    object: int
    rle: Rle
    fraction: float


@dataclass(frozen=True, slots=True)
class UnionReady:
    """All objects' masks of one type as one mask: `bbox` [x, y, width, height] and `area` in pixels."""

    mask_type: MaskType
    rle: Rle
    bbox: list[float]
    area: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens the language model read and wrote for this request."""

    prompt_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of a request that succeeded. `timings_ms` maps a stage to milliseconds, with `total`."""

    timings_ms: dict[str, float]
    usage: Usage = field(default_factory=Usage)
    drafts: tuple[DraftScore, ...] = ()


Event = (
    Accepted
    | ReasoningDelta
    | MaskDrafted
    | DecisionMade
    | HeatmapReady
    | MaskReady
    | HiddenReady
    | UnionReady
    | Done
)
