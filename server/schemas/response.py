"""What the server answers: masks, models, its state, problem documents."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field, RootModel

from engines.events import DecisionSource, MaskType, Rle
from engines.request import MaskChoice


def _is_empty(value: object) -> bool:
    return value == []


def _is_none(value: object) -> bool:
    return value is None


class ImageInfo(BaseModel):
    """The image as it was understood: its id and its upright size in pixels."""

    id: str
    width: int
    height: int


class StoredImageInfo(ImageInfo):
    """An uploaded image. It may be forgotten before `expires_at` where many others are uploaded."""

    expires_at: datetime


class DecisionInfo(BaseModel):
    """Which mask was asked for. `confidence` is the model's probability, 1 where it was not asked.

    `source` says who decided: ``model``, by a token of its own; ``question``, by a word that it was asked for;
    ``grounder``, which can make but one of the two; ``request``.
    """

    mask_type: MaskType
    confidence: float
    source: DecisionSource


class MaskInfo(BaseModel):
    """One mask; `bbox` is [x, y, width, height] in pixels, `score` the predicted IoU.

    Where included, `polygon` holds its outlines as COCO does, [x, y, x, y, …] without holes, and `png_base64` the
    mask as a grey PNG, 255 inside.
    """

    object: int
    mask_type: MaskType
    rle: Rle
    bbox: list[float]
    area: int
    score: float
    polygon: list[list[float]] | None = Field(None, exclude_if=_is_none)
    png_base64: str | None = Field(None, exclude_if=_is_none)


class HiddenInfo(BaseModel):
    """The hidden part of one object, amodal minus modal; `fraction` is its share of the amodal area."""

    object: int
    rle: Rle
    fraction: float


class UnionInfo(BaseModel):
    """All objects' masks of one type as one mask."""

    mask_type: MaskType
    rle: Rle
    bbox: list[float]
    area: int


class HeatmapInfo(BaseModel):
    """The positional prior over the image: an 8-bit grey PNG, 255 for a probability of 1; `size` [height, width].

    With several objects or masks it holds the largest of their probabilities.
    """

    png_base64: str
    size: list[int]


class DraftInfo(BaseModel):
    """What became of a draft: its `iou` with the final mask, null where no mask of that object and type came.

    `reasoning_tokens` is how far the reasoning had come.
    """

    number: int
    object: int
    mask_type: MaskType
    reasoning_tokens: int
    iou: float | None


class UsageInfo(BaseModel):
    """Tokens the language model read and wrote."""

    prompt_tokens: int
    reasoning_tokens: int


class SegmentResponse(BaseModel):
    """The answer. No object found: `masks` is empty. `hidden` is filled with ``"mask_type": "both"`` only."""

    id: str
    model: str
    image: ImageInfo
    reasoning: str | None = Field(description="null unless included")
    decision: DecisionInfo
    masks: list[MaskInfo]
    hidden: list[HiddenInfo]
    union: list[UnionInfo] | None = Field(None, exclude_if=_is_none, description="there if included")
    heatmap: HeatmapInfo | None = Field(description="null unless included and an object was found")
    drafts: list[DraftInfo] | None = Field(None, exclude_if=_is_none, description="there if asked for")
    timings_ms: dict[str, float]
    usage: UsageInfo
    warnings: list[str] = Field([], exclude_if=_is_empty, description="What the model could not do as asked.")


class ModelInfo(BaseModel):
    """One served model."""

    id: str
    object: Literal["model"] = "model"
    grounder: str
    mask_types: list[MaskChoice]
    reasoning_tokens: dict[str, int]
    vision: dict[str, str | int]


class ModelList(BaseModel):
    """The served models."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class Live(BaseModel):
    """The process answers."""

    status: Literal["live"] = "live"


class FieldFault(BaseModel):
    """What is wrong with one field; `field` is its path, such as ``image.data``."""

    field: str
    message: str


class Ready(BaseModel):
    """Everything answers, and a warm-up request has passed through all of it; `reasons` say what is degraded."""

    status: Literal["ready", "degraded"] = "ready"
    reasons: list[FieldFault] | None = Field(None, exclude_if=_is_none)


class Problem(BaseModel):
    """A problem document (RFC 9457). `type` is stable; `errors` names the fields at fault, if any is."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldFault] = []
    request_id: str | None = Field(default=None, description="As in the response's `X-Request-ID`.")


class BatchResult(BaseModel):
    """What became of one request of a batch: its answer, or the problem with the status it would have had."""

    status: int
    response: SegmentResponse | None = None
    problem: Problem | None = None


class BatchResponse(BaseModel):
    """The results in the order of the requests."""

    results: list[BatchResult]


class CocoResult(BaseModel):
    """One mask as annotation tools and pycocotools' ``loadRes`` take it."""

    image_id: int | str
    category_id: int
    segmentation: Rle
    bbox: list[float]
    score: float


class CocoResults(RootModel[list[CocoResult]]):
    """COCO results, as ``loadRes`` reads them from a file."""
