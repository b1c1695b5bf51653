"""The demo's tokenizer: byte-level BPE with Qwen's special tokens, trained on the demo's own sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<think>",
    "</think>",
    "<MODAL>",
    "<AMODAL>",
    "<REF_POS>",
    "<NO_OBJECT>",
)
VOCABULARY = 2752
"""The most tokens there are, and the rows of the model's embedding."""


def token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of every special token. Raises KeyError if the tokenizer lacks one."""
    known = tokenizer.get_vocab()
    return {token: known[token] for token in SPECIAL_TOKENS}


WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pattern of what a token may span."""

STOCK = (
    " complete shape of",
    " visible part of",
    " is wanted.",
    " In view:",
    " Nothing covers it.",
    " Nothing covers them.",
    " covers part of it.",
    " covers part of",
    " cover part of it.",
    " cover part of",
    " There are two",
    " There are three",
    " There is no",
    " in front of it,",
    " to the left of it,",
    " to the right of it,",
)
"""What the reasoning says over and over, longer phrases before their beginnings."""

_CELLS = r"(?:top|bottom)(?: left| right)?|left|right|centre"
PHRASES = rf" [a-h][1-8](?= )|(?: is)? at the (?:{_CELLS})\b\.?|" + "|".join(map(re.escape, STOCK))
"""Squares of the image, places and stock phrases: a token each, so that a third less is to be written.

Tokens across words are those of SuperBPE (Liu et al. 2025, "Space Travel for Language Models").
"""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{- part.text -}}"
    "{%- else -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""Newlines stand inside expressions: Jinja drops those beside a tag that trims."""


def train_tokenizer(sentences: Iterable[str]) -> Tokenizer:
    """A tokenizer of at most `VOCABULARY` tokens; any text can be encoded, byte by byte if need be."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"{PHRASES}|{WORDS}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer
