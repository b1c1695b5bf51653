"""Boxes in a model's answer: found in the streamed text as soon as they are complete, whatever stands around them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from engines.events import MaskType

Box = tuple[float, float, float, float]  # x0, y0, x1, y1, as shares of the picture's width and height

NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
FOUR_NUMBERS = re.compile(rf"\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\]")
LONGEST = 128  # characters that may still belong to a box which is not complete
COORDINATE = "(0|[1-9][0-9]{0,2}|1000)"


class BoxFormat(BaseModel):
    """How a model is asked for boxes, and the scale of its coordinates.

    `modal` and `amodal` ask for the box of the visible part and of the complete shape of ``{prompt}``; `scale` is the
    coordinate of the right and of the lower edge; `tokens` is how many the answer may take for each box.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modal: str = "Locate {prompt}, output the bbox coordinates of its visible part using JSON format."
    amodal: str = (
        "Locate {prompt}, output the bbox coordinates of its complete shape, with the parts that are hidden behind "
        "other things, using JSON format."
    )
    scale: PositiveInt = 1000
    tokens: PositiveInt = 64

    @model_validator(mode="after")
    def _templates_hold_the_prompt(self) -> BoxFormat:
        for name in ("modal", "amodal"):
            if getattr(self, name).count("{prompt}") != 1:
                raise ValueError(f"{name} must hold {{prompt}} exactly once")
        return self

    def ask(self, prompt: str, mask_type: MaskType) -> str:
        """The question for one kind of box."""
        return (self.modal if mask_type == "modal" else self.amodal).replace("{prompt}", prompt)

    @staticmethod
    def pattern(objects: int) -> str:
        """A regular expression of an answer with exactly so many boxes."""
        numbers = ", ".join([COORDINATE] * 4)
        box = rf'\{{"bbox_2d": \[{numbers}\]\}}'
        return rf"\[{', '.join([box] * objects)}\]"


class BoxParser:
    """Collects up to `most` boxes, clipped to the picture, from text that arrives in pieces.

    A box is four numbers in brackets, on a scale of `scale`; one without an area is none. Prose, code fences and
    labels around boxes do not matter. `done` is set once no more can come: there are enough of them, or the list that
    was opened before the first is closed again.
    """

    def __init__(self, most: int, scale: int = 1000) -> None:
        self._most = most
        self._scale = scale
        self._text = ""
        self._depth = 0
        self.boxes: list[Box] = []
        self.done = False

    def feed(self, text: str) -> list[Box]:
        """Take the next piece of the answer; returns the boxes that it completes."""
        if self.done:
            return []
        self._text += text
        found, end = [], 0
        for match in FOUR_NUMBERS.finditer(self._text):
            self._follow(self._text[end : match.start()])
            if self.done:
                break
            end = match.end()
            if (box := self._clip(match)) is not None and len(self.boxes) < self._most:
                self.boxes.append(box)
                found.append(box)
        kept = max(end, len(self._text) - LONGEST)
        last = self._text.rfind("[", kept)
        kept = last if last >= 0 else len(self._text)
        self._follow(self._text[end:kept])
        self._text = self._text[kept:]
        self.done = self.done or len(self.boxes) >= self._most
        return found

    def _follow(self, text: str) -> None:
        """Count brackets between boxes."""
        for character in text:
            if character in "[{":
                self._depth += 1
            elif character in "]}":
                self._depth -= 1
                if self._depth <= 0 and character == "]" and self.boxes:
                    self.done = True

    def _clip(self, match: re.Match[str]) -> Box | None:
        x0, y0, x1, y1 = (min(max(float(number) / self._scale, 0.0), 1.0) for number in match.groups())
        left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        return (left, top, right, bottom) if left < right and top < bottom else None


def same_objects(boxes: Mapping[MaskType, Sequence[Box]]) -> list[dict[MaskType, Box]]:
    """Boxes of both mask types put together by object: those that overlap most belong together, the best pair first.

    The objects are in the order of the first type's boxes; what overlaps none of them comes after as its own.
    """
    objects: list[dict[MaskType, Box]] = []
    for kind, found in boxes.items():
        known = [(o, other) for o, one in enumerate(objects) for other in one.values()]
        pairs = [(_iou(box, other), n, o) for n, box in enumerate(found) for o, other in known]
        placed: dict[int, int] = {}
        for iou, n, o in sorted(pairs, key=lambda pair: -pair[0]):
            if iou > 0 and n not in placed and o not in placed.values():
                placed[n] = o
        for n, box in enumerate(found):
            if n in placed:
                objects[placed[n]][kind] = box
            else:
                objects.append({kind: box})
    return objects


def _iou(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    either = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both
    return both / either if either > 0 else 0.0
