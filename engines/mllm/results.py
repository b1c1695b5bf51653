"""What the language model's client hands back, apart from the vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from engines.events import DecisionSource, MaskType
from engines.mllm.tap.told import Told

KnownStates = Mapping[str, NDArray[np.float32]]
"""Last hidden states [D], each by the assistant's text whose last token has it."""
NOTHING_KNOWN: KnownStates = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Written:
    """An answer as the model wrote it. `objects` is 0 when it says there is no such object.

    `told` holds the states it was written from, where the server sends them.
    """

    mask_type: MaskType
    objects: int
    told: Told | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ReasoningEnd:
    """The last item of `MllmClient.reason`.

    `text` is the whole reasoning without its opening and closing. `closed` tells whether the model closed it
    itself (or was not asked to reason); False after a length stop or a missing ``</think>``. `prompt_tokens`
    counts the image's tokens too; it is 0 when no call was made (a budget of 0). `written` is the answer, where the
    model wrote it behind the reasoning, too.
    """

    text: str
    prompt_tokens: int
    reasoning_tokens: int
    closed: bool
    written: Written | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Which mask the prompt asks for and how many objects it means.

    `p_modal` + `p_amodal` = 1: the model's probabilities, normalised over the two; 1 and 0 when the caller
    forced the type. `objects` is 0 when the model says there is no such object. `prompt_tokens` and `tokens`
    count what was read and written for it; both 0 when nothing had to be asked. `source` says how the model was
    asked, and means nothing where the caller forced the type. `known` are states that came with the answer.
    """

    p_modal: float
    p_amodal: float
    objects: int
    prompt_tokens: int = 0
    tokens: int = 0
    source: DecisionSource = "model"
    known: KnownStates = field(default_factory=dict, compare=False, repr=False)

    @property
    def mask_type(self) -> MaskType:
        """The more probable type."""
        return "modal" if self.p_modal >= self.p_amodal else "amodal"

    @property
    def confidence(self) -> float:
        """The probability of `mask_type`, 0.5..1."""
        return max(self.p_modal, self.p_amodal)


@dataclass(frozen=True, slots=True, eq=False)
class TextStates:
    """A prompt's last hidden states: `text` float32 [T, D] of its plain tokens, `end` [D] of the turn's end."""

    text: NDArray[np.float32]
    end: NDArray[np.float32]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class RoleHealth:
    """Whether a role has a vLLM server that answers; `detail` says which one does not, and why."""

    role: str
    healthy: bool
    detail: str = ""
