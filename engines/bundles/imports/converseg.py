"""Imports ConverSeg-Net (Sahoo and Gkioxari, 2026): a trained SAM 2, an adapter, a LoRA, and a Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engines.bundles.bundle import Bundle
from engines.bundles.imports.checkpoints import read_tensors
from engines.bundles.imports.language_model import LanguageModel, locate, published_name, set_chat_template
from engines.bundles.imports.lora import WRAPPING, Lora
from engines.bundles.imports.publish import unfinished
from engines.bundles.imports.sam import Sam, read_sam
from engines.bundles.imports.tensor_file import TensorFile
from engines.bundles.imports.vision_part import write_vision
from engines.bundles.manifest import MLLM, VISION, write_manifest
from engines.errors import CheckpointError
from engines.mllm.answer import AnswerFormat, AnswerTokens, ReasoningBudgets
from engines.mllm.image import MllmImageConfig
from engines.mllm.reading import ReadingFormat
from engines.vision.config import WEIGHTS_FILE, AdapterConfig, HieraConfig

PATTERNS = ("*.torch", "*.json", "*.safetensors")
BACKBONE = "backbone."
ADAPTER = (
    *("txt_norm.weight", "txt_norm.bias", "to_sparse.weight", "to_sparse.bias", "scale", "temp"),
    *("to_dense.0.weight", "to_dense.0.bias", "to_dense.2.weight", "to_dense.2.bias"),
)
HEAD = "lm_head.weight"
SIDE = 256  # pixels of the square that the language model sees, to the nearest multiple of its patches
MIN_PIXELS = 56 * 56
NAMED = 5

ANSWER = AnswerFormat(
    tokens=AnswerTokens(reference=None, modal=None, amodal=None, no_object=None),
    budgets=ReasoningBudgets(full=0, brief=0),
    reading=ReadingFormat(),
)
CHAT_TEMPLATE = (
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}"
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{- part.text -}}"
    "{%- else -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- endif -%}"
    "{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
)
"""Qwen2.5-VL's own, for such conversations: what `ReadingFormat` says, token by token."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Published:
    """The files of ``aadarsh99/ConverSeg-Net-3B``, or of a training run."""

    sam: Path
    adapter: Path
    lora: Path

    @classmethod
    def find(cls, folder: Path) -> Published:
        """Raises CheckpointError if one is missing, or there is more than one step's."""
        adapters = set(folder.glob("*_plm_*.torch"))
        sams = set(folder.glob("*_sam2_*.torch")) - adapters
        loras = {file.parent for file in folder.glob("lora_plm_adapter_*/adapter_config.json")}
        found = {"_sam2_….torch": sams, "_plm_….torch": adapters, "lora_plm_adapter_…": loras}
        for name, files in found.items():
            if len(files) != 1:
                raise CheckpointError(f"{folder}: holds {len(files)} of {name}, and must hold one")
        return cls(*(files.pop() for files in found.values()))


def import_converseg(
    checkpoint: str,
    base: str,
    out: Path,
    *,
    name: str = "converseg",
    max_pixels: int | None = None,
    progress: Progress = print,
) -> Bundle:
    """Make a bundle at `out`, whole or not at all.

    Args:
        checkpoint: the published files, a folder or a Hugging Face name such as ``aadarsh99/ConverSeg-Net-3B``.
        base: the Qwen2.5-VL it was trained on, a folder or a Hugging Face name.
        out: the bundle; one that is there is replaced.
        name: the model's name in the API.
        max_pixels: the largest image the language model sees, at its own aspect; None makes a square of `SIDE`.
        progress: hears what is being done.

    The LoRA is added to the weights: W + (alpha / r) · B A, rounded to bfloat16 once.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the others.
        BundleError: what was made is no bundle.
    """
    files = Published.find(locate(checkpoint, PATTERNS))
    model, lora = LanguageModel.read(locate(base)), Lora.read(files.lora)
    progress(f"{files.adapter.name}, {files.sam.name}")
    trained = read_tensors(files.adapter)
    backbone = _backbone(files.adapter, trained, model)
    lora.check(model.shapes)
    seer, adapter = _seer(files, trained, model)
    with unfinished(out) as folder:
        image = _image_config(model, max_pixels)
        model.copy_side_files(folder / MLLM, image)
        set_chat_template(folder / MLLM, CHAT_TEMPLATE)
        progress("the language model, with the LoRA in it")
        with TensorFile(folder / MLLM / WEIGHTS_FILE, model.shapes, torch.bfloat16) as language:
            for place, value in model.tensors():
                language.write(place, lora.merged(place, backbone.get(place, value)))
        write_vision(folder / VISION, seer, adapter)
        progress("digests")
        write_manifest(folder, name=name, grounder="converseg", answer=ANSWER, mllm_image=image)
        Bundle.load(folder, verify=False)
    return Bundle.load(out, verify=False)


def _image_config(model: LanguageModel, max_pixels: int | None) -> MllmImageConfig:
    if max_pixels is not None:
        return model.image_config(MIN_PIXELS, max_pixels)
    factor = model.image_config(1, SIDE**4).factor
    pixels = (round(SIDE / factor) * factor) ** 2
    return model.image_config(pixels, pixels).model_copy(update={"square": True})


def _backbone(file: Path, trained: Mapping[str, Tensor], model: LanguageModel) -> dict[str, Tensor]:
    """The language model's own weights, which the adapter's file repeats below its LoRA, by their published names.

    Its copy of the LoRA is left out: the published code loads the folder's in its place.
    """
    found = {}
    for stored, value in trained.items():
        if not stored.startswith(BACKBONE) or ".lora_" in stored:
            continue
        place = stored.removeprefix(BACKBONE).removeprefix(WRAPPING).replace(".base_layer.", ".")
        found[published_name(place)] = value
    if model.tied:
        found.pop(HEAD, None)
    _refuse(f"{file}: the base model has no", found.keys() - model.shapes.keys())
    for place, value in found.items():
        if tuple(value.shape) != model.shapes[place]:
            told = f"{place} is {model.shapes[place]}, in the checkpoint {tuple(value.shape)}"
            raise CheckpointError(f"{model.path}: the base model is of another size: {told}")
    return found


def _seer(files: Published, trained: Mapping[str, Tensor], model: LanguageModel) -> tuple[Sam, AdapterConfig]:
    """The trained SAM 2 with the adapter's tensors beside its own."""
    sam = read_sam(str(files.sam))
    if not isinstance(sam.encoder, HieraConfig):
        raise CheckpointError(f"{files.sam}: a SAM, but no SAM 2")
    own = {stored: value for stored, value in trained.items() if not stored.startswith(BACKBONE)}
    _refuse(f"{files.adapter}: lacks of the adapter", set(ADAPTER) - own.keys())
    _refuse(f"{files.adapter}: holds tensors that are not the adapter's", own.keys() - set(ADAPTER))
    channels, width = own["to_sparse.weight"].shape
    if width != model.hidden_size:
        told = f"its states have {model.hidden_size} numbers, those of the adapter {width}"
        raise CheckpointError(f"{model.path}: the base model is of another size: {told}")
    if channels != sam.decoder.transformer_dim:
        raise CheckpointError(f"{files.adapter}: prompts of {channels} channels are not {files.sam.name}'s")
    tensors = {**sam.tensors, **{f"state_adapter.{stored}": value for stored, value in own.items()}}
    encoder = sam.encoder.model_copy(update={"fit": "centre"})
    return Sam(encoder, sam.decoder, tensors), AdapterConfig(state_dim=width)


def _refuse(fault: str, names: set[str]) -> None:
    if names:
        some = ", ".join(sorted(names)[:NAMED])
        raise CheckpointError(f"{fault}: {some}" + (" …" if len(names) > NAMED else ""))
