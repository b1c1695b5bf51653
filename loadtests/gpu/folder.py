"""Writes a bundle of a shape: its language model has no weights, which vLLM makes up (``--load-format dummy``)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from engines.bundles.manifest import MLLM, VISION, write_manifest
from engines.demo.processor import save_processor
from engines.demo.tokenizer import SPECIAL_TOKENS, WORDS, token_ids
from engines.mllm.answer import AnswerFormat
from engines.vision.golden_inputs import make_golden
from engines.vision.model import VisionModel
from loadtests.gpu.shapes import Shape

SPACE = "Ġ"
"""How byte-level BPE writes a space."""
LONGEST_WORD = 4
LONGEST_SEQUENCE = 128_000


def write_bundle(path: Path, shape: Shape) -> None:
    """Write a whole bundle; its vision model has random weights and a golden file. Raises BundleError."""
    write_language_model(path / MLLM, shape)
    VisionModel.from_config(shape.vision_config()).save(path / VISION)
    make_golden(path / VISION)
    write_manifest(path, name=f"random-{shape.name}", answer=AnswerFormat(), mllm_image=shape.image)


def write_language_model(folder: Path, shape: Shape) -> None:
    """Configuration, tokenizer, processor, and a file of weights without any."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(shape.vocabulary)
    shape.language_config(token_ids(tokenizer)).save_pretrained(folder)
    save_processor(tokenizer, folder, shape.image, LONGEST_SEQUENCE)
    save_file({}, folder / "model.safetensors")


def make_tokenizer(size: int) -> Tokenizer:
    """A tokenizer of exactly `size` tokens: the special ones, the bytes, and words of up to four letters.

    A random model's answer is any of them. Every word is one token with its space, so that an answer becomes the same
    tokens again when it is handed back in, as a trained model's answer does.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*SPECIAL_TOKENS, *alphabet]
    merges = list(islice(_merges(), size - len(vocabulary)))
    if len(vocabulary) + len(merges) != size:
        raise ValueError(f"there are words for {len(vocabulary) + len(merges)} tokens, not for {size}")
    vocabulary += [left + right for left, right in merges]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def _merges() -> Iterator[tuple[str, str]]:
    """Each word from a shorter one and one letter more; short words first."""
    for length in range(1, LONGEST_WORD + 1):
        for letters in product(ascii_lowercase, repeat=length):
            yield SPACE + "".join(letters[:-1]), letters[-1]
