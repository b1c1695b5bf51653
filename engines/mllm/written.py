"""What a model writes behind its reasoning, of its own accord: which mask, and a reference for each object."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from engines.errors import BundleError
from engines.events import MaskType
from engines.mllm.answer import MAX_OBJECTS, AnswerFormat
from engines.mllm.grammar import SpecialTokens
from engines.mllm.results import Written
from engines.mllm.tap.told import Told

OUTPUT = "lm_head.weight"
TIED_OUTPUTS = {"model.language_model.embed_tokens.weight", "model.embed_tokens.weight"}
"""The input embedding, as transformers names it now and did before: the output matrix where the two are tied."""


class WrittenAnswer:
    """Reads the tokens behind the reasoning: a decision, then references or the no-object token, then the end."""

    def __init__(self, answer: AnswerFormat) -> None:
        """Of an answer that `writes`."""
        tokens = answer.tokens
        self._decisions, self._reference = tokens.decisions(), tokens.reference or ""
        modal, amodal, reference, end = map(re.escape, (*self._decisions, self._reference, tokens.end))
        objects = f"(?P<objects>(?:{reference}){{1,{MAX_OBJECTS}}})"
        if tokens.no_object is not None:
            objects = f"(?:{objects}|{re.escape(tokens.no_object)})"
        self._pattern = re.compile(f"(?:(?P<modal>{modal})|{amodal}){objects}{end}")
        self._longest = max(map(len, self._decisions)) + len(tokens.end)
        self._longest += max(MAX_OBJECTS * len(self._reference), len(tokens.no_object or ""))

    def read(self, text: str, told: Told | None = None) -> Written | None:
        """The answer, if `text` is one, with the states it was written from."""
        match = self._pattern.fullmatch(text)
        if match is None:
            return None
        references = match["objects"] or ""
        mask_type: MaskType = "modal" if match["modal"] else "amodal"
        return Written(mask_type, len(references) // len(self._reference), told)

    def begins(self, text: str) -> bool:
        """Whether `text` may be the beginning of an answer."""
        started = any(text.startswith(token) or token.startswith(text) for token in self._decisions)
        return started and len(text) <= self._longest


class DecisionHead:
    """The two rows of the language model's output matrix that belong to its decision tokens."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        """`rows` [2, D], the modal token's first."""
        self._direction = rows[0] - rows[1]

    @classmethod
    def load(cls, mllm_path: Path, answer: AnswerFormat, tokens: SpecialTokens) -> DecisionHead | None:
        """Of the weights in a Hugging Face folder; None if they hold no such matrix, or the answer is not written.

        Raises:
            BundleError: the tokenizer lacks one of the two, or a file is missing or damaged.
        """
        if not answer.writes:
            return None
        places = [tokens.id(token) for token in answer.tokens.decisions()]
        try:
            names = TIED_OUTPUTS if _tied(mllm_path / "config.json") else {OUTPUT}
            for file in sorted(mllm_path.glob("*.safetensors")):
                with safe_open(file, framework="pt") as stored:
                    for name in names & set(stored.keys()):
                        matrix = stored.get_slice(name)
                        return cls(np.stack([matrix[place].float().numpy() for place in places]))
        except (OSError, ValueError, SafetensorError) as error:
            raise BundleError(f"{mllm_path}: the weights cannot be read: {error}") from error
        return None

    def p_modal(self, state: NDArray[np.float32]) -> float:
        """The probability of the modal token behind this last hidden state [D], normalised over the two.

        Raises ValueError for a state of another model: of another width, or not finite.
        """
        if state.shape != self._direction.shape or not np.isfinite(state).all():
            raise ValueError(f"no state of {self._direction.size} finite numbers")
        return 1.0 / (1.0 + math.exp(min(-float(self._direction @ state), 700.0)))


def _tied(config: Path) -> bool:
    """Whether the output matrix is the input embedding."""
    stored = json.loads(config.read_bytes())
    text = stored.get("text_config", {})
    return bool(stored.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
