"""The language model that a published checkpoint starts from, as Hugging Face publishes it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import ValidationError
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer

from engines.bundles.checks import Shape, read_json, read_shapes
from engines.errors import BundleError, CheckpointError
from engines.mllm.image import MllmImageConfig

CONFIG, PROCESSOR, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer.json"
PATTERNS = ("*.json", "*.jinja", "*.txt", "*.safetensors")
SIDE_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
NOT_COPIED = ("*.index.json", "*.md", ".*")
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
RENAMES = ((re.compile(r"^model\.language_model\."), "model."), (re.compile(r"^model\.visual\."), "visual."))


def published_name(name: str) -> str:
    """A tensor's name as Qwen2.5-VL's files have it, from that or from the one inside today's transformers."""
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return name


def locate(model: str, patterns: Sequence[str] = PATTERNS) -> Path:
    """The folder `model`, or the files of the Hugging Face repository of that name, downloaded if need be.

    `patterns` are of the files wanted.

    Raises:
        CheckpointError: there is neither.
    """
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{model}: no such folder, and not to be had by that name: {reason}") from error


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A Hugging Face folder: its configuration, and the shape of every tensor by its published name."""

    path: Path
    config: dict[str, Any]
    shapes: Mapping[str, Shape]

    @classmethod
    def read(cls, path: Path) -> LanguageModel:
        """Only the headers of the weights are read.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        try:
            for name in (CONFIG, PROCESSOR, TOKENIZER):
                read_json(path / name)
            config = read_json(path / CONFIG)
            files = sorted(path.glob("*.safetensors"))
            shapes = {
                published_name(name): shape for file in files for name, shape in read_shapes(file).items()
            }
            listed = _listed(path)
        except BundleError as error:
            raise CheckpointError(str(error)) from error
        if not files:
            raise CheckpointError(f"{path}: holds no .safetensors weights")
        for name in sorted(listed - {file.name for file in files}):
            raise CheckpointError(f"{path / name}: the file is missing, though the index lists it")
        return cls(path, config, shapes)

    @property
    def hidden_size(self) -> int:
        """D, the width of its hidden states."""
        return int(self.config.get("text_config", self.config)["hidden_size"])

    @property
    def tied(self) -> bool:
        """Whether its output matrix is its input embedding."""
        text = self.config.get("text_config", {})
        return bool(self.config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))

    def copy_side_files(self, folder: Path, image: MllmImageConfig) -> None:
        """Copy all but the weights, with the sizes of images that `image` allows."""
        skipped = {file for pattern in NOT_COPIED for file in self.path.glob(pattern)}
        for pattern in SIDE_FILES:
            for file in self.path.glob(pattern):
                if file not in skipped:
                    shutil.copyfile(file, folder / file.name)
        processor = read_json(folder / PROCESSOR)
        sizes = {"min_pixels": image.min_pixels, "max_pixels": image.max_pixels}
        edges = {"shortest_edge": image.min_pixels, "longest_edge": image.max_pixels}
        write_json(folder / PROCESSOR, {**processor, **sizes, "size": edges})

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by its published name, one in memory at a time."""
        for file in sorted(self.path.glob("*.safetensors")):
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118
                    yield published_name(name), stored.get_tensor(name)

    def copy_weights(self, folder: Path) -> None:
        """Copy the weights as they are."""
        for file in [*self.path.glob("*.safetensors"), *self.path.glob("*.safetensors.index.json")]:
            shutil.copyfile(file, folder / file.name)

    def image_config(self, min_pixels: int, max_pixels: int) -> MllmImageConfig:
        """The sizes of images for this model's patches. Raises CheckpointError if none fits."""
        processor = read_json(self.path / PROCESSOR)
        factor = processor.get("patch_size", 14) * processor.get("merge_size", 2)
        try:
            return MllmImageConfig(min_pixels=min_pixels, max_pixels=max_pixels, factor=factor)
        except ValidationError as error:
            raise CheckpointError(
                f"the sizes of images: {error.errors(include_url=False)[0]['msg']}"
            ) from error


def _listed(path: Path) -> set[str]:
    """The files that the weights' index names; none without an index."""
    index = path / "model.safetensors.index.json"
    return set(read_json(index)["weight_map"].values()) if index.exists() else set()


def add_token(folder: Path, token: str) -> int:
    """Add a special token to the tokenizer in `folder`, as CoPRS's own script does, and return its id.

    Raises:
        CheckpointError: it did not become one token.
        OSError: the tokenizer cannot be written.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_tokens([token], special_tokens=True)
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # tokenizers raises bare Exception, with the system's number among its words
        if (told := SYSTEM_ERROR.search(str(error))) is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(folder / TOKENIZER)) from error
    made = Tokenizer.from_file(str(folder / TOKENIZER))
    ids = made.encode(token, add_special_tokens=False).ids
    if len(ids) != 1 or made.id_to_token(ids[0]) != token:
        raise CheckpointError(f"{folder / TOKENIZER}: {token} became {len(ids)} tokens, not one")
    return int(ids[0])


def set_chat_template(folder: Path, template: str) -> None:
    """Put a chat template in the place of the published one, wherever that is."""
    (folder / "chat_template.json").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = read_json(folder / "tokenizer_config.json")
    config.pop("chat_template", None)
    write_json(folder / "tokenizer_config.json", config)


def set_vocabulary(folder: Path, rows: int) -> None:
    """Tell the configuration in `folder` how many rows the embedding has."""
    config = read_json(folder / CONFIG)
    for part in (config, config.get("text_config", {})):
        if "vocab_size" in part:
            part["vocab_size"] = rows
    write_json(folder / CONFIG, config)


def write_json(file: Path, content: object) -> None:
    """Write JSON for people to read."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
