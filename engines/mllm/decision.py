"""The short constrained call behind a decision: which tokens may come, and what their probabilities say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from engines.errors import MllmUnavailable
from engines.events import MaskType
from engines.mllm.answer import MAX_OBJECTS, AnswerFormat, AnswerTokens, DecisionQuestion
from engines.mllm.grammar import SpecialTokens
from engines.mllm.wire import PositionLogprobs


@dataclass(frozen=True, slots=True)
class Question:
    """Continue the assistant's `text` by at most `length` of the `allowed` tokens."""

    text: str
    allowed: tuple[str, ...]
    length: int

    def options(self, tokens: SpecialTokens) -> Mapping[str, object]:
        """Sampling options; the log-probabilities of the allowed tokens come with every position."""
        ids = [tokens.id(token) for token in self.allowed]
        return {
            "max_completion_tokens": self.length,
            "allowed_token_ids": ids,
            "logprobs": True,
            "logprob_token_ids": ids,
        }


def ask_decision(answer: AnswerFormat, reasoning: str, *, count: bool) -> Question:
    """Modal or amodal? With `count`, the references behind it are asked for in the same call."""
    tokens = answer.tokens
    decisions = tuple(token for token in (tokens.modal, tokens.amodal) if token is not None)
    counts = _count_tokens(tokens) if count else ()
    return Question(answer.closed(reasoning), decisions + counts, 1 + (MAX_OBJECTS if count else 0))


def ask_words(question: DecisionQuestion) -> Question:
    """Modal or amodal, in the words of a model that has no tokens for them?"""
    return Question(question.lead, question.words(), 1)


def ask_count(answer: AnswerFormat, reasoning: str, mask_type: MaskType) -> Question:
    """How many references, once the mask type is known?"""
    text = answer.with_decision(reasoning, mask_type)
    return Question(text, _count_tokens(answer.tokens), MAX_OBJECTS)


def p_modal(words: tuple[str, str], position: PositionLogprobs) -> float:
    """The probability of the first of two tokens, the modal one, at this position, normalised over the two.

    Raises MllmUnavailable if neither one is known.
    """
    modal, amodal = map(position.of, words)
    if math.isinf(modal) and math.isinf(amodal):
        raise MllmUnavailable("the reason server does not give the probabilities of chosen tokens")
    return 1.0 / (1.0 + math.exp(min(amodal - modal, 700.0)))


def count_objects(tokens: AnswerTokens, positions: Sequence[PositionLogprobs]) -> int:
    """How many references the model wrote, 1 to MAX_OBJECTS; 0 for the no-object token.

    A model that wrote neither stopped too early: the likelier of the two is taken, so no mask is lost by it.
    """
    references = _leading(tokens, positions)
    if references or tokens.no_object is None or not positions:
        return max(references, 1)
    first = positions[0]
    return 0 if first.of(tokens.no_object) > first.of(tokens.reference or "") else 1


def count_read(tokens: AnswerTokens, positions: Sequence[PositionLogprobs]) -> int:
    """How many references the model wrote and read again, to write what follows: those have a state."""
    return min(_leading(tokens, positions), max(len(positions) - 1, 0))


def _leading(tokens: AnswerTokens, positions: Sequence[PositionLogprobs]) -> int:
    return sum(1 for _ in takewhile(lambda position: position.token == tokens.reference, positions))


def _count_tokens(tokens: AnswerTokens) -> tuple[str, ...]:
    return tuple(token for token in (tokens.reference, tokens.no_object, tokens.end) if token is not None)
