"""SegmentRequest: what one request asks the pipeline for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engines.errors import InvalidInput
from engines.events import MaskType
from engines.mllm.answer import AnswerFormat, ReasoningLength
from engines.vision.visual_prompt import VisualPrompt

MaskChoice = Literal["auto", "modal", "amodal", "both"]
MAX_DRAFTS = 8
ONLY_MODAL = "this model draws visible parts only: it cannot complete what is hidden"


def mask_types(answer: AnswerFormat) -> tuple[MaskChoice, ...]:
    """What may be asked of a model that answers so."""
    if answer.reading is not None:
        return ("auto", "modal")
    return ("auto", "modal", "amodal", "both") if answer.decides else ("modal", "amodal")


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """What one request asks for.

    `prompt` is empty where `visual` alone says what is meant: the answer is one modal mask, without the language
    model. `objects` None leaves their number to the model. `max_reasoning_tokens` replaces the bundle's number for
    `reasoning`; it means nothing with ``none``. `drafts` is how many masks may be drafted while the reasoning runs.
    A `patient` request lets others into the vision engine's batches first, but not for ever.
    """

    prompt: str = ""
    mask_type: MaskChoice = "auto"
    objects: int | None = None
    reasoning: ReasoningLength = "full"
    max_reasoning_tokens: int | None = None
    visual: VisualPrompt | None = None
    drafts: int = 0
    heatmap: bool = False
    union: bool = False
    patient: bool = False

    def check(self, answer: AnswerFormat) -> None:
        """Raises InvalidInput for what a model that answers so cannot do. Without a prompt it has nothing to do."""
        if not self.prompt:
            return
        if self.mask_type not in mask_types(answer):
            if answer.reading is not None:
                raise InvalidInput(f"mask_type: {self.mask_type} is not to be had: {ONLY_MODAL}")
            raise InvalidInput("mask_type: this model does not choose between modal and amodal")
        if answer.reading is not None and self.objects not in (None, 1):
            raise InvalidInput("objects: this model makes one mask of all that is meant")
        if answer.reading is not None and self.visual is not None:
            raise InvalidInput("prompt: this model takes words, or a box and points, but not both at once")

    @property
    def forced_type(self) -> MaskType | None:
        """The one mask type the request names."""
        return self.mask_type if self.mask_type in ("modal", "amodal") else None

    def types(self, decided: MaskType) -> tuple[MaskType, ...]:
        """The mask types to be made once one has been decided."""
        return ("modal", "amodal") if self.mask_type == "both" else (decided,)

    @property
    def likely_objects(self) -> int:
        """Their number as long as the model has not told it: most who leave it open mean one."""
        return self.objects or 1

    @property
    def drafts_wanted(self) -> int:
        """How many drafts may be drawn: without reasoning there is no time for any."""
        return 0 if self.reasoning == "none" else self.drafts

    @property
    def known_length(self) -> ReasoningLength | None:
        """The reasoning's length where it is one that other requests have, too."""
        return self.reasoning if self.max_reasoning_tokens is None else None

    @property
    def draft_type(self) -> MaskType:
        """The mask type of drafts: what the request names, else modal, for what can be seen is part of either."""
        return self.forced_type or "modal"
