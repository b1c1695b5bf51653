"""What goes over the wire: requests (strict), responses and problem documents."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from engines.events import MaskType, Rle
from engines.mllm.answer import MAX_OBJECTS, ReasoningLength
from engines.pipeline import MaskChoice, SegmentRequest

MAX_PROMPT = 2000  # characters
MAX_REASONING_TOKENS = 4096
MAX_TIMEOUT_MS = 600_000
MAX_IMAGE_ID, MAX_URL = 100, 2000  # characters
MAX_BATCH = 16


def _objects(value: Any, handler: Callable[[Any], Any]) -> Any:
    """One message for both halves of the union."""
    try:
        return handler(value)
    except ValueError:
        raise PydanticCustomError(
            "objects", 'must be "auto" or a whole number from 1 to {most}', {"most": MAX_OBJECTS}
        ) from None


def _is_none(value: object) -> bool:
    return value is None


Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PROMPT)]
Objects = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_OBJECTS, strict=True)], WrapValidator(_objects)
]
Extra = Literal["heatmap", "reasoning", "union", "polygon", "png"]


class RequestModel(BaseModel):
    """Nothing unknown, nothing converted: what is not as it must be is refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CocoIds(RequestModel):
    """What COCO results call this image, its id if nothing else is said, and what was found in it."""

    image_id: int | Annotated[str, StringConstraints(max_length=200)] | None = None
    category_id: int = 1


class SegmentOptions(RequestModel):
    """What is asked of the image; the `request` part of a multipart upload."""

    prompt: Prompt = Field(description="What to segment, in words.")
    mask_type: MaskChoice = Field(
        "auto", description="`auto` lets the prompt decide; `both` gives the visible and the complete mask."
    )
    reasoning: ReasoningLength = Field("full", description="How much the model may reason before it answers.")
    max_reasoning_tokens: int | None = Field(
        None, ge=1, le=MAX_REASONING_TOKENS, description="Replaces the bundle's number for `reasoning`."
    )
    objects: Objects = Field("auto", description="How many objects the prompt means; `auto` asks the model.")
    include: frozenset[Extra] = Field(
        frozenset({"reasoning"}),
        description="The parts of the response that may be left out; `polygon` and `png` are further forms of masks.",
    )
    coco: CocoIds | None = Field(None, description="The ids of COCO results; they mean nothing otherwise.")
    timeout_ms: int | None = Field(
        None, ge=1, le=MAX_TIMEOUT_MS, description="The deadline, from the moment the request is read."
    )

    @model_validator(mode="after")
    def _no_tokens_for_no_reasoning(self) -> SegmentOptions:
        if self.reasoning == "none" and self.max_reasoning_tokens is not None:
            raise PydanticCustomError(
                "max_reasoning_tokens", 'max_reasoning_tokens means nothing with "reasoning": "none"'
            )
        return self

    def to_request(self) -> SegmentRequest:
        """The same for the pipeline."""
        return SegmentRequest(
            prompt=self.prompt,
            mask_type=self.mask_type,
            objects=None if self.objects == "auto" else self.objects,
            reasoning=self.reasoning,
            max_reasoning_tokens=self.max_reasoning_tokens,
            heatmap="heatmap" in self.include,
            union="union" in self.include,
        )


class ImageSource(RequestModel):
    """The image of a JSON request, in one of three ways."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [way], "properties": {way: {"type": "string"}}} for way in ("data", "id", "url")
            ]
        }
    )

    data: str | None = Field(None, description="A JPEG, PNG, WebP, GIF or BMP file, base64-encoded.")
    id: str | None = Field(None, max_length=MAX_IMAGE_ID, description="The id of an uploaded image.")
    url: str | None = Field(
        None, max_length=MAX_URL, description="Where the image is; its host must be allowed by the operator."
    )

    @model_validator(mode="after")
    def _one_way(self) -> ImageSource:
        if [self.data, self.id, self.url].count(None) != 2:
            raise PydanticCustomError("image", "must have one of data, id and url")
        return self


class SegmentBody(SegmentOptions):
    """A whole request as JSON."""

    image: ImageSource


class BatchBody(RequestModel):
    """Several requests on one image."""

    image: ImageSource
    requests: list[SegmentOptions] = Field(min_length=1, max_length=MAX_BATCH)


class ImageInfo(BaseModel):
    """The image as it was understood: its id and its upright size in pixels."""

    id: str
    width: int
    height: int


class StoredImageInfo(ImageInfo):
    """An uploaded image. It may be forgotten before `expires_at` where many others are uploaded."""

    expires_at: datetime


class DecisionInfo(BaseModel):
    """Which mask was asked for. `confidence` is the model's probability, 1 if the request named the type."""

    mask_type: MaskType
    confidence: float
    source: Literal["model", "request"]


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
    timings_ms: dict[str, float]
    usage: UsageInfo


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


class Ready(BaseModel):
    """Everything answers, and a warm-up request has passed through all of it."""

    status: Literal["ready"] = "ready"


class FieldFault(BaseModel):
    """What is wrong with one field; `field` is its path, such as ``image.data``."""

    field: str
    message: str


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
