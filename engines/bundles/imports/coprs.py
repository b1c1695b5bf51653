"""Imports CoPRS (Lu et al., 2025): training shards, the Qwen2.5-VL they started from, and SAM's encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engines.bundles.bundle import Bundle
from engines.bundles.checks import Shape
from engines.bundles.imports.checkpoints import Piece, Shards, read_tensors
from engines.bundles.imports.language_model import (
    LanguageModel,
    add_token,
    locate,
    published_name,
    set_vocabulary,
)
from engines.bundles.imports.publish import unfinished
from engines.bundles.imports.sam import Sam, read_sam
from engines.bundles.imports.tensor_file import TensorFile
from engines.bundles.imports.vision_part import write_vision_config
from engines.bundles.manifest import MLLM, VISION, write_manifest
from engines.errors import CheckpointError
from engines.mllm.answer import (
    AnswerFormat,
    AnswerTokens,
    DecisionQuestion,
    ReasoningBudgets,
    SeveralObjects,
)
from engines.vision.config import WEIGHTS_FILE, HeatmapConfig

LANGUAGE = "llm."
TRAINED_VISION = ("heatmap_head.", "prompt_encoder.", "mask_decoder.")
EXPORTED_HEADS = "refseg_modules.pt"  # the trained vision parts once more, whole, as rank 0 saves them
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
HEADS, QUERY = "heatmap_head.fuser.0.weight", "heatmap_head.q_proj.weight"
NEEDED = {HEADS, QUERY}
MIN_PIXELS, MAX_PIXELS = 56 * 56, 705_600
NAMED = 5

REFERENCE = "<REF_POS>"
ANSWER = AnswerFormat(
    tokens=AnswerTokens(reference=REFERENCE, modal=None, amodal=None, no_object=None),
    user=(
        " Please find '{prompt}' in the image.\n"
        "Compare the difference between objects and find the most closely matched one.\n"
        "Output the thinking process in <think> </think>.\n"
        "Then generate one reference position token: <REF_POS>\n"
        "This special token will be used to predict a segmentation mask.\n"
        "Format:\n"
        "<think> your reasoning here </think>\n"
        "Here is the reference position: <REF_POS>"
    ),
    decision_tail="\n{decision}",
    reference_tail="Here is the reference position: {references}",
    budgets=ReasoningBudgets(full=512, brief=64),
    question=DecisionQuestion(),
    several=SeveralObjects(
        user=(
            " Please find '{prompt}' in the image.\n"
            "Compare the difference between object(s) and find the most closely matched object(s).\n"
            "Output the thinking process in <think> </think>.\n"
            "Then output exactly {count} reference position tokens, each written as <REF_POS>.\n"
            "These special tokens will be used to predict segmentation masks.\n"
            "Format:\n"
            "<think> your reasoning here </think>\n"
            "Here are the {count} reference positions (K={count}):\n"
            "{references}"
        ),
        reference_tail="Here are the {count} reference positions (K={count}):\n{references}",
        separator=" ",
    ),
)
"""The prompts CoPRS was trained with (``verl/utils/rl_dataset.py`` there), for one object and for several."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where each tensor of the shards goes: the language model's shapes, and the vision model's."""

    language: dict[str, Shape]
    vision: dict[str, Shape]
    vocabulary: int


def import_coprs(
    checkpoint: Path, base: str, sam: str, out: Path, *, name: str = "coprs", progress: Progress = print
) -> Bundle:
    """Make a bundle at `out`, whole or not at all.

    Args:
        checkpoint: a folder with ``model_world_size_W_rank_R.pt``, or one file with the merged state.
        base: the Qwen2.5-VL it started from, a folder or a Hugging Face name; of its weights only the shapes count.
        sam: the SAM whose encoder it was trained on, as `read_sam` takes it.
        out: the bundle; one that is there is replaced.
        name: the model's name in the API.
        progress: hears of every file that is read.

    One shard is in memory at a time, or, in torch's present file format, one tensor.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the others.
        BundleError: what was made is no bundle.
    """
    shards = Shards.find(checkpoint)
    model, seer = LanguageModel.read(locate(base)), read_sam(sam)
    progress(f"{shards.files[0].name}: sizes")
    plan = _plan(model, shards)
    with unfinished(out) as folder:
        image = model.image_config(MIN_PIXELS, MAX_PIXELS)
        model.copy_side_files(folder / MLLM, image)
        token = add_token(folder / MLLM, REFERENCE)
        if token >= plan.vocabulary:
            raise CheckpointError(
                f"{checkpoint}: {REFERENCE} is token {token}, but it knows {plan.vocabulary}"
            )
        set_vocabulary(folder / MLLM, plan.vocabulary)
        _write_weights(folder, plan, shards, seer, progress)
        write_manifest(folder, name=name, grounder="coprs", answer=ANSWER, mllm_image=image)
        Bundle.load(folder)
    return Bundle.load(out, verify=False)


def _plan(model: LanguageModel, shards: Shards) -> _Plan:
    """Compare the first shard's names and shapes with the base's."""
    shapes = {name: piece.shape for name, piece in shards.read(0)}
    first = shards.files[0]
    language = {
        published_name(name.removeprefix(LANGUAGE)): shape
        for name, shape in shapes.items()
        if name.startswith(LANGUAGE)
    }
    if model.tied:
        language.pop("lm_head.weight", None)
    vision = {name: shape for name, shape in shapes.items() if name.startswith(TRAINED_VISION)}
    _refuse(f"{first}: lacks of CoPRS's parts", NEEDED - shapes.keys())
    strange = shapes.keys() - vision.keys() - {name for name in shapes if name.startswith(LANGUAGE)}
    _refuse(f"{first}: holds tensors that are not CoPRS's", strange)
    _refuse(f"{first}: the base model of it has no", language.keys() - model.shapes.keys())
    _refuse(f"{first}: it lacks of the base model", model.shapes.keys() - language.keys())
    for name, shape in language.items():
        wanted = model.shapes[name]
        same = shape[1:] == wanted[1:] if name in EMBEDDINGS else shape == wanted
        if not same:
            raise CheckpointError(
                f"{model.path}: the base model is of another size: {name} is {wanted}, in the checkpoint {shape}"
            )
    return _Plan(language, vision, language[EMBEDDINGS[0]][0])


def _write_weights(folder: Path, plan: _Plan, shards: Shards, sam: Sam, progress: Progress) -> None:
    heads, dim = plan.vision[HEADS][0], plan.vision[QUERY][1]
    write_vision_config(folder / VISION, sam, HeatmapConfig(vector_dim=dim, num_heads=heads))
    encoder = {name: value for name, value in sam.tensors.items() if name.startswith("image_encoder.")}
    shapes = plan.vision | {name: tuple(value.shape) for name, value in encoder.items()}
    with ExitStack() as files:
        language = files.enter_context(
            TensorFile(folder / MLLM / WEIGHTS_FILE, plan.language, torch.bfloat16)
        )
        vision = files.enter_context(TensorFile(folder / VISION / WEIGHTS_FILE, shapes, torch.float32))
        for name, value in encoder.items():
            vision.write(name, value)
        _copy_shards(plan, shards, language, vision, progress)


def _copy_shards(
    plan: _Plan, shards: Shards, language: TensorFile, vision: TensorFile, progress: Progress
) -> None:
    """Every shard's rows into their places. Whatever two shards both hold must be the same in both."""
    whole = _exported_heads(shards)
    repeated: dict[str, Tensor] = {}
    names: set[str] = set()
    for rank, file in enumerate(shards.files):
        progress(f"{file.name}: {rank + 1} of {len(shards.files)}")
        seen: set[str] = set()
        for name, piece in shards.read(rank):
            seen.add(name)
            _check_run(file, name, piece, whole)
            if not piece.sharded and not _first_time(file, name, piece, repeated, rank):
                continue
            if name.startswith(LANGUAGE):
                place = published_name(name.removeprefix(LANGUAGE))
                if place in plan.language:
                    _check_shape(file, name, piece, plan.language[place])
                    language.write(place, piece.values, piece.first_row)
            else:
                _check_shape(file, name, piece, plan.vision.get(name))
                vision.write(name, piece.values, piece.first_row)
        names = names or seen
        _refuse(f"{file}: shards of two runs are mixed: rank 0 and this one differ in", seen ^ names)


def _exported_heads(shards: Shards) -> Mapping[str, Tensor]:
    """The trained vision parts as rank 0 saved them once more; empty where it did not."""
    file = shards.files[0].parent / EXPORTED_HEADS
    return read_tensors(file) if file.is_file() and len(shards.files) > 1 else {}


def _check_run(file: Path, name: str, piece: Piece, whole: Mapping[str, Tensor]) -> None:
    """A shard's rows are those of the same run's exported parts, where these are there."""
    if name not in whole or tuple(whole[name].shape) != piece.shape:
        return
    rows = whole[name][piece.first_row :][: len(piece.values)] if piece.sharded else whole[name]
    if not torch.allclose(rows.float(), piece.values.float(), rtol=1e-2, atol=1e-5):
        raise CheckpointError(f"{file}: shards of two runs are mixed: {name} is not {EXPORTED_HEADS}'s")


def _first_time(file: Path, name: str, piece: Piece, repeated: dict[str, Tensor], rank: int) -> bool:
    """Whether a tensor that every shard holds whole is still to be written; only rank 0's is."""
    if rank == 0:
        repeated[name] = piece.values
        return True
    if name not in repeated or not torch.equal(repeated[name], piece.values):
        raise CheckpointError(f"{file}: shards of two runs are mixed: {name} is another one in rank 0")
    return False


def _check_shape(file: Path, name: str, piece: Piece, shape: Shape | None) -> None:
    if piece.shape != shape:
        raise CheckpointError(f"{file}: shards of two runs are mixed: {name} is {piece.shape}, not {shape}")


def _refuse(fault: str, names: set[str]) -> None:
    if names:
        some = ", ".join(sorted(names)[:NAMED])
        raise CheckpointError(f"{fault}: {some}" + (" …" if len(names) > NAMED else ""))
