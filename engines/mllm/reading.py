"""A prompt that is read, not answered: its text as the chat template writes it, and where its tokens' states are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from tokenizers import Tokenizer

from engines.errors import BundleError, InvalidInput
from engines.mllm.image import MllmImage

SIGHT = ("image", "vision", "<img", "picture", "video")


class ReadingFormat(BaseModel):
    """How a model is shown an image and a prompt whose tokens' states are wanted; stored under ``answer.reading``.

    `text` is the whole conversation as the bundle's chat template writes it, with ``{prompt}`` and one `image` token,
    and `end` closes the user's turn. `most` is how many tokens a prompt may have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{prompt}<|im_end|>\n"
    )
    image: str = "<|image_pad|>"
    end: str = "<|im_end|>"
    most: PositiveInt = 256

    @model_validator(mode="after")
    def _holds_its_fields(self) -> ReadingFormat:
        for field in ("{prompt}", self.image):
            if self.text.count(field) != 1:
                raise ValueError(f"text must hold {field} exactly once")
        if self.end not in self.text.partition("{prompt}")[2]:
            raise ValueError("text must hold end behind {prompt}")
        return self


@dataclass(frozen=True, slots=True)
class Places:
    """Where what is in a prefill of `length` tokens: `text` are int64 [T], of plain text; `end` closes the turn."""

    length: int
    text: NDArray[np.int64]
    end: int


@dataclass(frozen=True, slots=True)
class TextReader:
    """Tells the places of a prompt's tokens; `factor` is how many pixels of a side make one image token."""

    form: ReadingFormat
    tokenizer: Tokenizer
    factor: int
    marks: frozenset[int]
    """Tokens that are no text: special ones, and those that stand for something to be seen."""

    @classmethod
    def load(cls, mllm_path: Path, form: ReadingFormat, factor: int) -> TextReader:
        """Read the tokenizer of a language model. Raises BundleError if it lacks a token of `form`."""
        file = mllm_path / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(file))
            added = json.loads(file.read_text(encoding="utf-8"))["added_tokens"]
        except Exception as error:  # tokenizers raises bare Exception for a file it cannot read
            raise BundleError(f"{file}: not a tokenizer: {error}") from error
        marks = frozenset(
            token["id"]
            for token in added
            if token["special"] or any(word in token["content"].lower() for word in SIGHT)
        )
        for token in (form.image, form.end):
            if tokenizer.token_to_id(token) not in marks:
                raise BundleError(f"{file}: {token} is no special token")
        return cls(form, tokenizer, factor, marks)

    def places(self, prompt: str, image: MllmImage) -> Places:
        """Of a prompt in which no special token is left. Raises InvalidInput if it is too long."""
        length = len(self._ids(prompt))
        if length > self.form.most:
            raise InvalidInput(f"prompt: {length} tokens, but this model reads no more than {self.form.most}")
        ids = np.array(self._ids(self.form.text.replace("{prompt}", prompt)))
        seen = (image.height // self.factor) * (image.width // self.factor)
        behind = np.arange(len(ids)) > np.flatnonzero(ids == self.tokenizer.token_to_id(self.form.image))[0]
        where = np.arange(len(ids)) + behind * (seen - 1)
        plain = ~np.isin(ids, list(self.marks))
        end = where[ids == self.tokenizer.token_to_id(self.form.end)][-1]
        return Places(len(ids) + seen - 1, where[plain], int(end))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids
