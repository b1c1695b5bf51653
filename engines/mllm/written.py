"""What a model writes behind its reasoning, of its own accord: which mask, and a reference for each object."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from engines.errors import BundleError
from engines.mllm.answer import MAX_OBJECTS, AnswerTokens
from engines.mllm.grammar import SpecialTokens
from engines.mllm.results import Written

OUTPUT = "lm_head.weight"
TIED_OUTPUTS = frozenset({"model.language_model.embed_tokens.weight", "model.embed_tokens.weight"})
"""The input embedding is the output matrix, too, where there is no other."""


class WrittenAnswer:
    """Reads the tokens behind the reasoning: a decision, then references or the no-object token, then the end."""

    def __init__(self, tokens: AnswerTokens) -> None:
        """Of tokens with decisions."""
        modal, amodal, reference, nothing, end = (
            re.escape(token or "")
            for token in (*tokens.decisions(), tokens.reference, tokens.no_object, tokens.end)
        )
        objects = f"(?P<objects>(?:{reference}){{1,{MAX_OBJECTS}}})"
        if nothing:
            objects = f"(?:{objects}|{nothing})"
        self._pattern = re.compile(f"(?:(?P<modal>{modal})|{amodal}){objects}{end}")
        self._reference = tokens.reference or ""
        self.longest = sum(map(len, (tokens.modal or "", tokens.amodal or "", tokens.end)))
        self.longest += max(MAX_OBJECTS * len(self._reference), len(tokens.no_object or ""))
        """No answer has more characters."""

    def read(self, text: str) -> Written | None:
        """The answer, if `text` is one."""
        match = self._pattern.fullmatch(text)
        if match is None:
            return None
        references = match["objects"] or ""
        return Written("modal" if match["modal"] else "amodal", len(references) // len(self._reference))


class DecisionHead:
    """The two rows of the language model's output matrix that belong to its decision tokens."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        """`rows` [2, D], the modal token's first."""
        self._direction = rows[0] - rows[1]

    @classmethod
    def load(cls, mllm_path: Path, answer: AnswerTokens, tokens: SpecialTokens) -> DecisionHead | None:
        """Of the weights in a Hugging Face folder; None if they hold no such matrix, or the model no such tokens.

        Raises:
            BundleError: the tokenizer lacks one of the two, or a file of weights is damaged.
        """
        if answer.modal is None:
            return None
        places = [tokens.id(token) for token in answer.decisions()]
        try:
            return cls._of_files(sorted(mllm_path.glob("*.safetensors")), places)
        except (OSError, SafetensorError) as error:
            raise BundleError(f"{mllm_path}: the weights cannot be read: {error}") from error

    @classmethod
    def _of_files(cls, files: Sequence[Path], places: Sequence[int]) -> DecisionHead | None:
        tied: DecisionHead | None = None
        for file in files:
            with safe_open(file, framework="pt") as stored:
                for name in {OUTPUT, *TIED_OUTPUTS} & set(stored.keys()):
                    matrix = stored.get_slice(name)
                    head = cls(np.stack([matrix[place].float().numpy() for place in places]))
                    if name == OUTPUT:
                        return head
                    tied = head
        return tied

    def p_modal(self, state: NDArray[np.float32]) -> float:
        """The probability of the modal token behind this last hidden state [D], normalised over the two."""
        return 1.0 / (1.0 + math.exp(min(-float(self._direction @ state), 700.0)))
