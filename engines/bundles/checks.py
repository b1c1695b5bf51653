"""What must hold between a bundle's files: weights fit their config, tokens are known, widths agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from engines.errors import BundleError
from engines.mllm.answer import AnswerFormat
from engines.mllm.grammar import word_ids
from engines.mllm.image import MllmImageConfig
from engines.vision.config import VisionConfig

Shape = tuple[int, ...]
NAMED = 3  # how many faults of a kind a message names


def check_vision_weights(file: Path, config: VisionConfig) -> None:
    """The tensors in `file` are those of a `VisionModel` of this config; only the file's header is read."""
    import torch  # takes seconds, with the model's modules; nothing else about bundles needs it

    from engines.vision.model import VisionModel

    stored = read_shapes(file)
    with torch.device("meta"):
        model = VisionModel.from_config(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    _refuse(file, "lacks", sorted(wanted.keys() - stored.keys()))
    _refuse(file, "holds tensors that the config has no place for:", sorted(stored.keys() - wanted.keys()))
    differing = [name for name, shape in sorted(wanted.items()) if stored[name] != shape]
    _refuse(
        file,
        "does not fit the config:",
        [f"{name} is {stored[name]}, not {wanted[name]}" for name in differing],
    )


def check_tokens(file: Path, answer: AnswerFormat) -> None:
    """Each token or word with a meaning in the answer is one token of the tokenizer in `file`."""
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception for a file it cannot read
        raise BundleError(f"{file}: not a tokenizer: {error}") from error
    for token in answer.tokens.required():
        ids = tokenizer.encode(token, add_special_tokens=False).ids
        if len(ids) != 1 or tokenizer.id_to_token(ids[0]) != token:
            raise BundleError(f"{file}: {token} is {len(ids)} tokens, not one of its own")
    word_ids(file, answer.words())


def check_vector_width(file: Path, config: VisionConfig) -> None:
    """The language model's hidden state is as wide as what takes it, if anything does."""
    if config.heatmap is not None:
        wanted, part = config.heatmap.vector_dim, "the heatmap head takes vectors"
    elif config.adapter is not None:
        wanted, part = config.adapter.state_dim, "the adapter takes states"
    else:
        return
    stored = read_json(file)
    width = stored.get("text_config", stored).get("hidden_size")
    if width != wanted:
        raise BundleError(f"{file}: hidden_size is {width}, but {part} of {wanted}")


def check_image_processor(file: Path, config: MllmImageConfig) -> None:
    """The language model's own image processor would resize images as the gateway does, and states its colours.

    vLLM feeds raw 0..255 pixels, without a word, to a model whose processor leaves mean and deviation unsaid.
    """
    stored = read_json(file)
    for name in ("image_mean", "image_std"):
        values = stored.get(name)
        if not isinstance(values, list) or len(values) != 3:
            raise BundleError(f"{file}: {name} must hold three numbers")
    size = stored.get("size") or {}
    found = {
        "min_pixels": stored.get("min_pixels", size.get("shortest_edge")),
        "max_pixels": stored.get("max_pixels", size.get("longest_edge")),
        "factor": stored.get("patch_size", 14) * stored.get("merge_size", 2),
    }
    for name, wanted in config.model_dump(exclude={"square"}).items():
        if found[name] != wanted:
            raise BundleError(f"{file}: its {name} is {found[name]}, but bundle.json says {wanted}")


def read_shapes(file: Path) -> dict[str, Shape]:
    """The shape of each tensor in a .safetensors file, from its header.

    Raises:
        BundleError: the file is missing or damaged.
    """
    try:
        with safe_open(file, framework="np") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{file}: not a whole .safetensors file: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        BundleError: the file is missing, or holds something else.
    """
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{file}: not a JSON object")
    return content


def _refuse(file: Path, fault: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise BundleError(f"{file}: {fault} {', '.join(names[:NAMED])}{more}")
