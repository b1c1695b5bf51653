"""The queries worth looking at, drawn: the truth as an outline, the answer as a tint."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from engines.evaluation.metrics import Mask, fuse
from engines.evaluation.outcomes import Outcome
from engines.evaluation.questions import DataSet, Question
from engines.evaluation.runner import Ran
from engines.upright import turn_of
from engines.vision.masks import decode

SHOWN = 6
LONGEST = 420  # pixels
TINT, OUTLINE = (235, 70, 60), (30, 200, 90)


@dataclass(frozen=True, slots=True)
class Example:
    """One query with its picture as a data URL."""

    outcome: Outcome
    picture: str


def choose(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The best and the worst answers to queries with an object, and the surest of the wrong decisions."""
    answered = [each for each in outcomes if each.error is None and each.targets]
    ranked = sorted(answered, key=lambda each: each.overlap.iou)
    wrong = [each for each in outcomes if each.source == "model" and each.decided not in (None, each.wanted)]
    wrong.sort(key=lambda each: -(each.confidence or 0.0))
    return {"Best": ranked[::-1][:SHOWN], "Worst": ranked[:SHOWN], "Wrong decisions": wrong[:SHOWN]}


def draw(ran: Ran, dataset: DataSet) -> dict[str, list[Example]]:
    """The chosen queries with their pictures, which are read anew."""
    chosen = choose(ran.outcomes)
    questions: dict[str, Question] = {}
    entries = {outcome.entry for outcomes in chosen.values() for outcome in outcomes}
    for entry in [name for name in dataset.pictures() if name in entries]:
        questions |= {question.label: question for question in dataset.read(entry).questions}
    return {
        title: [
            Example(each, overlay(questions[each.label], each))
            for each in outcomes
            if each.label in questions
        ]
        for title, outcomes in chosen.items()
    }


def overlay(question: Question, outcome: Outcome) -> str:
    """The picture as a JPEG data URL: the answer tinted red, the truth outlined green."""
    with Image.open(io.BytesIO(question.image)) as opened:
        turn = turn_of(opened)
        picture = (opened if turn is None else opened.transpose(turn)).convert("RGB")
    picture.thumbnail((LONGEST, LONGEST))
    pixels = np.array(picture)
    size = (pixels.shape[1], pixels.shape[0])
    found = _shrink(fuse([decode(code) for code in outcome.instances.predictions], question.shape), size)
    pixels[found] = (0.5 * pixels[found] + 0.5 * np.array(TINT)).astype(np.uint8)
    for truth in question.truths:
        small = _shrink(truth, size).astype(np.uint8)
        outlines, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(pixels, outlines, -1, OUTLINE, 2)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _shrink(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask in the size (width, height) of the small picture."""
    small = cv2.resize(np.ascontiguousarray(mask).view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(small, dtype=np.bool_)
