"""Boxes and points of a request, in pixels of the upright image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from engines.vision.visual_prompt import Box, Point
from server.schemas.strict import RequestModel

MAX_POINTS = 32

Place = Annotated[float, Field(allow_inf_nan=False)]


def _spans(box: Box) -> Box:
    if not (box[0] < box[2] and box[1] < box[3]):
        raise PydanticCustomError("box", "must be [x0, y0, x1, y1] with x0 < x1 and y0 < y1")
    return box


BoxCorners = Annotated[tuple[Place, Place, Place, Place], AfterValidator(_spans)]


class PointPrompt(RequestModel):
    """A place on the object (`label` 1) or off it (0)."""

    x: Place
    y: Place
    label: Literal[0, 1] = 1

    def to_point(self) -> Point:
        """The same for the pipeline."""
        return Point(self.x, self.y, positive=self.label == 1)
