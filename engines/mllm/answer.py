"""The answer a bundle's language model gives: its tokens, its templates and the texts built from them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, model_validator

from engines.events import MaskType
from engines.mllm.boxes import BoxFormat
from engines.mllm.reading import ReadingFormat

ReasoningLength = Literal["full", "brief", "none"]
MAX_OBJECTS = 8


class AnswerTokens(BaseModel):
    """The strings with a meaning in the answer; each is one token of the bundle's tokenizer, if it is set.

    A model that never decides (CoPRS) has no `modal`, `amodal` and `no_object`; one that answers in boxes (EGM) has no
    `reference` either.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    think_open: str = "<think>"
    think_close: str = "</think>"
    modal: str | None = "<MODAL>"
    amodal: str | None = "<AMODAL>"
    reference: str | None = "<REF_POS>"
    no_object: str | None = "<NO_OBJECT>"
    end: str = "<|im_end|>"

    @model_validator(mode="after")
    def _decision_is_whole(self) -> AnswerTokens:
        if (self.modal is None) != (self.amodal is None):
            raise ValueError("modal and amodal must both be set or both be absent")
        return self

    def decision(self, mask_type: MaskType) -> str:
        """The decision token of a mask type; empty for a model that has none."""
        return (self.modal if mask_type == "modal" else self.amodal) or ""

    def decisions(self) -> tuple[str, str]:
        """The two decision tokens, the modal one first."""
        return self.decision("modal"), self.decision("amodal")

    def within(self) -> frozenset[str]:
        """The tokens that are followed by more of the answer."""
        tokens = (self.think_close, self.modal, self.amodal, self.reference, self.no_object)
        return frozenset(token for token in tokens if token is not None)

    def required(self) -> tuple[str, ...]:
        """The tokens the tokenizer must know as single tokens."""
        tokens = (self.reference, self.end, self.modal, self.amodal, self.no_object)
        return tuple(token for token in tokens if token is not None)


class ReasoningBudgets(BaseModel):
    """How many tokens each named length of reasoning may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    full: NonNegativeInt = 160
    brief: NonNegativeInt = 16


class DecisionQuestion(BaseModel):
    """How a model that never decides is asked to, in a conversation of its own: one word out of two.

    `user` is the user's text with ``{prompt}``, `lead` the beginning of the assistant's; `modal` and `amodal` are
    the words that may follow, each one token of the bundle's tokenizer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: str = (
        "Somebody asks to segment this in the image: '{prompt}'. Is the visible part of it wanted, or its complete "
        "shape, the parts included that are hidden behind other things? Unless the hidden parts are asked for, it "
        "is the visible part."
    )
    lead: str = "What is wanted is the"
    modal: str = " visible"
    amodal: str = " complete"

    @model_validator(mode="after")
    def _holds_the_prompt(self) -> DecisionQuestion:
        if self.user.count("{prompt}") != 1:
            raise ValueError("user must hold {prompt} exactly once")
        return self

    def words(self) -> tuple[str, str]:
        """The two words, the modal one first."""
        return self.modal, self.amodal


class SeveralObjects(BaseModel):
    """How more than one object is asked for by a model that is told how many, and how its answer ends.

    `user` is the user's text with ``{prompt}``, ``{count}`` and ``{references}``; `reference_tail` takes the place of
    the answer's own, with the latter two; `separator` stands between two references.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: str
    reference_tail: str
    separator: str = ""

    @model_validator(mode="after")
    def _hold_their_fields(self) -> SeveralObjects:
        if self.user.count("{prompt}") != 1:
            raise ValueError("user must hold {prompt} exactly once")
        if not self.reference_tail.endswith("{references}"):
            raise ValueError("reference_tail must end in {references}: the last token's state is the vector")
        return self


class AnswerFormat(BaseModel):
    """How one bundle asks and answers; stored in ``bundle.json`` under ``answer``.

    `user` is the user's text with ``{prompt}``. The assistant's text is
    `opening` + reasoning + `closing` + `decision_tail` (with ``{decision}``, empty for a model that has none)
    + `reference_tail` (with ``{references}``, the reference token once per object). `question` is what a model
    without decision tokens is asked. With `boxes` the answer behind `closing` is boxes, and has no references. With
    `reading` there is no answer at all: the states of the prompt's own tokens are wanted. `several` is for a number of
    objects above 1, where that is asked for in other words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: AnswerTokens = AnswerTokens()
    user: str = "{prompt}"
    opening: str = "<think>"
    closing: str = "</think>"
    decision_tail: str = "{decision}"
    reference_tail: str = "{references}"
    budgets: ReasoningBudgets = ReasoningBudgets()
    question: DecisionQuestion | None = None
    boxes: BoxFormat | None = None
    reading: ReadingFormat | None = None
    several: SeveralObjects | None = None

    @model_validator(mode="after")
    def _templates_hold_their_fields(self) -> AnswerFormat:
        fields = {"user": "{prompt}", "decision_tail": "{decision}", "reference_tail": "{references}"}
        for name, field in fields.items():
            if getattr(self, name).count(field) != 1:
                raise ValueError(f"{name} must hold {field} exactly once")
        if not self.reference_tail.endswith("{references}"):
            raise ValueError("reference_tail must end in {references}: the last token's state is the vector")
        kinds = (self.tokens.reference, self.boxes, self.reading)
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("an answer has either a reference token or boxes, or is none and only read")
        return self

    @property
    def decides(self) -> bool:
        """Whether the model chooses between modal and amodal, by a token of its own or when it is asked."""
        return self.tokens.modal is not None or self.question is not None

    @property
    def counts_at_once(self) -> bool:
        """Whether the references follow the decision token directly, so that one call can write both."""
        return self.decision_tail.endswith("{decision}") and self.reference_tail == "{references}"

    @property
    def writes(self) -> bool:
        """Whether nothing but tokens follows the reasoning, so that an answer the model writes itself can be read."""
        tokens = self.tokens
        whole = tokens.modal is not None and tokens.reference is not None and self.several is None
        return whole and (self.closing, self.decision_tail, self.reference_tail) == (
            tokens.think_close, "{decision}", "{references}",
        )  # fmt: skip

    def words(self) -> tuple[str, ...]:
        """Words of the answer that must each be one token, though they are no special tokens."""
        return self.question.words() if self.question else ()

    def budget(self, length: ReasoningLength, max_tokens: int | None = None) -> int:
        """Tokens the reasoning may take: 0 for ``none``, else `max_tokens`, else the bundle's number."""
        if length == "none":
            return 0
        if max_tokens is not None:
            return max_tokens
        return self.budgets.full if length == "full" else self.budgets.brief

    def question_text(self, prompt: str) -> str:
        """The user's text that asks which mask is wanted. Raises ValueError for a bundle without a question."""
        if self.question is None:
            raise ValueError("this model is never asked which mask is wanted")
        return self.question.user.replace("{prompt}", prompt)

    def user_text(self, prompt: str, objects: int | None = None) -> str:
        """The user's text around a prompt whose special tokens are already escaped, for so many objects."""
        if self.several is None or objects is None or objects == 1:
            return self.user.replace("{prompt}", prompt)
        references = self.several.separator.join([self.tokens.reference or ""] * objects)
        text = self.several.user.replace("{count}", str(objects)).replace("{references}", references)
        return text.replace("{prompt}", prompt)

    def opened(self, reasoning: str = "") -> str:
        """The assistant's text while it reasons."""
        return self.opening + reasoning

    def closed(self, reasoning: str) -> str:
        """The assistant's text with the reasoning closed: the decision token comes next."""
        head, _, _ = self.decision_tail.partition("{decision}")
        return self.opening + reasoning + self.closing + head

    def with_decision(self, reasoning: str, mask_type: MaskType) -> str:
        """The assistant's text up to where the first reference token, or the no-object token, comes next."""
        tail = self.decision_tail.replace("{decision}", self.tokens.decision(mask_type))
        return self.opening + reasoning + self.closing + tail + self._lead

    def with_references(self, reasoning: str, mask_type: MaskType, count: int, of: int | None = None) -> str:
        """The assistant's text whose last token is the `count`-th reference token, out of `of`, or the last one.

        `count` is at least 1.
        """
        if count < 1 or self.tokens.reference is None:
            raise ValueError(f"a text with references needs a token for them and at least one, not {count}")
        if self.several is None or (of or count) == 1:
            return self.with_decision(reasoning, mask_type) + self.tokens.reference * count
        before = self.with_decision(reasoning, mask_type).removesuffix(self._lead)
        lead = self.several.reference_tail.replace("{count}", str(of or count)).removesuffix("{references}")
        return before + lead + self.several.separator.join([self.tokens.reference] * count)

    @property
    def _lead(self) -> str:
        return self.reference_tail.removesuffix("{references}")
