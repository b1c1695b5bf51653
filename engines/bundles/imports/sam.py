"""Published checkpoints of SAM and SAM 2, with their authors' names or Hugging Face's, under this project's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from engines.bundles.imports import sam2
from engines.bundles.imports.checkpoints import read_tensors
from engines.bundles.imports.language_model import locate
from engines.bundles.imports.mobile_sam import FIRST_TENSOR, fold_norms, tiny_vit_config
from engines.bundles.imports.renaming import Renames, count, renamed
from engines.errors import CheckpointError
from engines.vision.config import AnyEncoderConfig, DecoderConfig, EncoderConfig, VisionConfig

NAMED = 5  # how many names a message tells
HEADS = 8  # of SAM's mask decoder, whatever its encoder; no tensor's shape tells it

SEGMENT_ANYTHING: Renames = (
    (r"^(image_encoder\.patch_embed)\.proj\.", r"\1.projection."),
    (r"^image_encoder\.blocks\.(\d+)\.norm([12])\.", r"image_encoder.layers.\1.layer_norm\2."),
    (r"^image_encoder\.blocks\.(\d+)\.", r"image_encoder.layers.\1."),
    (r"^image_encoder\.neck\.0\.", "image_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "image_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "image_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "image_encoder.neck.layer_norm2."),
)
"""Of the encoder only: the names of the rest are segment-anything's here, too."""

HUGGING_FACE: Renames = (
    (r"^vision_encoder\.", "image_encoder."),
    (
        r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^(mask_decoder\.transformer\.)layer_norm_final_attn\.", r"\1norm_final_attn."),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.)layer_norm(\d)\.", r"\1norm\2."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.proj_out\.", r"\1.layers.2."),
)
INNER_LAYER = re.compile(
    r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)\."
)


@dataclass(frozen=True, slots=True)
class Sam:
    """A SAM: its sizes, and its tensors under the names of `VisionModel`."""

    encoder: AnyEncoderConfig
    decoder: DecoderConfig
    tensors: Mapping[str, Tensor]


def read_sam(model: str) -> Sam:
    """The SAM in a checkpoint file, a Hugging Face folder, or a Hugging Face repository of that name.

    Raises:
        CheckpointError: it cannot be read, or holds tensors that no table here has a place for.
    """
    file = Path(model)
    if not file.is_file():
        files = sorted(locate(model).glob("*.safetensors"))
        if len(files) != 1:
            raise CheckpointError(f"{model}: {len(files)} .safetensors files where a SAM has one")
        [file] = files
    stored = read_tensors(file)
    try:
        tensors, encoder = _recognise(file, stored)
        sam = Sam(encoder, _decoder_config(tensors), tensors)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"{file}: not a SAM whose sizes can be told: {error}") from error
    _check_names(file, sam)
    return sam


def _recognise(file: Path, stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], AnyEncoderConfig]:
    """The tensors under this project's names, and the encoder's sizes, by a name that only one family has."""
    if FIRST_TENSOR in stored:
        return fold_norms(stored), tiny_vit_config(stored)
    if "image_encoder.pos_embed" in stored:
        tensors = renamed(stored, SEGMENT_ANYTHING)
        return tensors, _encoder_config(tensors)
    if "vision_encoder.pos_embed" in stored:
        tensors = from_hugging_face(stored)
        return tensors, _encoder_config(tensors)
    if sam2.FIRST_TENSOR in stored:
        tensors = sam2.from_original(stored)
        return tensors, sam2.hiera_config(tensors)
    if sam2.FIRST_TENSOR_AT_HUGGING_FACE in stored:
        tensors = sam2.from_hugging_face(from_hugging_face(sam2.image_parts(stored)))
        return tensors, sam2.hiera_config(tensors)
    some = ", ".join(sorted(stored)[:NAMED])
    raise CheckpointError(f"{file}: no SAM that is known here; it begins with {some}")


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers counts the inner layers of its small networks from behind the first."""
    inner = {}
    for name, value in state.items():
        match = INNER_LAYER.match(name)
        inner[f"{match[1]}.layers.{int(match[2]) + 1}.{name[match.end() :]}" if match else name] = value
    return renamed(inner, HUGGING_FACE)


def _encoder_config(tensors: Mapping[str, Tensor]) -> EncoderConfig:
    """The sizes of SAM's ViT, from the shapes of its tensors."""
    _, grid, _, hidden = tensors["image_encoder.pos_embed"].shape
    patch = tensors["image_encoder.patch_embed.projection.weight"].shape[-1]
    layers = count(tensors, r"image_encoder\.layers\.(\d+)\.")
    sides = [(tensors[f"image_encoder.layers.{i}.attn.rel_pos_h"].shape[0] + 1) // 2 for i in range(layers)]
    return EncoderConfig(
        image_size=grid * patch,
        patch_size=patch,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // tensors["image_encoder.layers.0.attn.rel_pos_h"].shape[1],
        mlp_dim=tensors["image_encoder.layers.0.mlp.lin1.weight"].shape[0],
        window_size=min(sides),
        global_attn_indexes=tuple(i for i, side in enumerate(sides) if side == grid),
        output_channels=tensors["image_encoder.neck.conv1.weight"].shape[0],
    )


def _decoder_config(tensors: Mapping[str, Tensor]) -> DecoderConfig:
    """The sizes of SAM's prompt encoder and mask decoder, from the shapes of their tensors."""
    masks, dim = tensors["mask_decoder.mask_tokens.weight"].shape
    layer = "mask_decoder.transformer.layers.0"
    return DecoderConfig(
        kind="sam2" if "mask_decoder.obj_score_token.weight" in tensors else "sam",
        transformer_dim=dim,
        depth=count(tensors, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        num_heads=HEADS,
        mlp_dim=tensors[f"{layer}.mlp.lin1.weight"].shape[0],
        attention_downsample_rate=dim // tensors[f"{layer}.cross_attn_token_to_image.q_proj.weight"].shape[0],
        num_multimask_outputs=masks - 1,
        iou_head_depth=count(tensors, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
        iou_head_hidden_dim=tensors["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        mask_in_chans=tensors["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )


def _check_names(file: Path, sam: Sam) -> None:
    """Refuse tensors that a model of these sizes lacks, or has no place for."""
    import torch

    from engines.vision.model import VisionModel

    with torch.device("meta"):
        model = VisionModel(VisionConfig(encoder=sam.encoder, decoder=sam.decoder))
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for fault, names in (
        ("holds tensors that nothing here has a place for", sam.tensors.keys() - wanted.keys()),
        ("lacks", wanted.keys() - sam.tensors.keys()),
    ):
        if names:
            raise CheckpointError(f"{file}: {fault}: {', '.join(sorted(names))}")
    for name, shape in wanted.items():
        if tuple(sam.tensors[name].shape) != shape:
            raise CheckpointError(f"{file}: {name} is {tuple(sam.tensors[name].shape)}, not {shape}")
