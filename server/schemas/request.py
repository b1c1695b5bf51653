"""What a client may ask, strictly: nothing unknown, nothing converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    StringConstraints,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from engines.mllm.answer import MAX_OBJECTS, ReasoningLength
from engines.request import MAX_DRAFTS, MaskChoice, SegmentRequest
from engines.vision.visual_prompt import VisualPrompt
from server.schemas.strict import RequestModel
from server.schemas.visual import MAX_POINTS, BoxCorners, PointPrompt

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


Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PROMPT)]
Objects = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_OBJECTS, strict=True)], WrapValidator(_objects)
]
Extra = Literal["heatmap", "reasoning", "union", "polygon", "png"]


class CocoIds(RequestModel):
    """What COCO results call this image, its id if nothing else is said, and what was found in it."""

    image_id: int | Annotated[str, StringConstraints(max_length=200)] | None = None
    category_id: int = 1


class SegmentOptions(RequestModel):
    """What is asked of the image; the `request` part of a multipart upload."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [way], "properties": {way: {"type": kind}}}
                for way, kind in (("prompt", "string"), ("box", "array"), ("points", "array"))
            ]
        }
    )

    prompt: Prompt = Field(
        default_factory=str,
        description="What to segment, in words. Without it `box` or `points` say so, and give one modal mask.",
    )
    box: BoxCorners | None = Field(
        None, description="[x0, y0, x1, y1] around the object, in pixels of the upright image."
    )
    points: list[PointPrompt] | None = Field(
        None, min_length=1, max_length=MAX_POINTS, description="Places on the object, and off it."
    )
    mask_type: MaskChoice = Field(
        "auto", description="`auto` lets the prompt decide; `both` gives the visible and the complete mask."
    )
    reasoning: ReasoningLength = Field("full", description="How much the model may reason before it answers.")
    max_reasoning_tokens: int | None = Field(
        None, ge=1, le=MAX_REASONING_TOKENS, description="Replaces the bundle's number for `reasoning`."
    )
    objects: Objects = Field("auto", description="How many objects the prompt means; `auto` asks the model.")
    drafts: int = Field(
        0, ge=0, le=MAX_DRAFTS, description="How many masks may be drafted while the model reasons."
    )
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

    @model_validator(mode="after")
    def _says_what_is_meant(self) -> SegmentOptions:
        if self.prompt:
            return self
        if self.visual is None:
            raise PydanticCustomError("prompt", "must be there, unless a box or points are")
        if self.mask_type not in ("auto", "modal"):
            raise PydanticCustomError("mask_type", "must be modal without a prompt")
        if self.objects not in ("auto", 1):
            raise PydanticCustomError("objects", "must be 1 without a prompt")
        return self

    @property
    def visual(self) -> VisualPrompt | None:
        """The box and the points, if there are any."""
        if self.box is None and self.points is None:
            return None
        return VisualPrompt(self.box, tuple(point.to_point() for point in self.points or ()))

    def to_request(self, *, patient: bool = False) -> SegmentRequest:
        """The same for the pipeline; a `patient` caller lets others go first."""
        return SegmentRequest(
            prompt=self.prompt,
            mask_type=self.mask_type,
            objects=None if self.objects == "auto" else self.objects,
            reasoning=self.reasoning,
            max_reasoning_tokens=self.max_reasoning_tokens,
            visual=self.visual,
            drafts=self.drafts,
            heatmap="heatmap" in self.include,
            union="union" in self.include,
            patient=patient,
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
