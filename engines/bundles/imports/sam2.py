"""SAM 2 and SAM 2.1 checkpoints: names of their image parts, in both published layouts, and the sizes of Hiera."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from engines.bundles.imports.renaming import Renames, count, renamed
from engines.vision.config import HieraConfig

FIRST_TENSOR = "image_encoder.trunk.pos_embed"
FIRST_TENSOR_AT_HUGGING_FACE = "vision_encoder.backbone.pos_embed"
"""Names that no other SAM has."""

ORIGINAL: Renames = (
    (r"^image_encoder\.trunk\.", "image_encoder.backbone."),
    (r"^(image_encoder\.backbone\.patch_embed)\.proj\.", r"\1.projection."),
    (r"^(image_encoder\.backbone\.blocks\.\d+)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"^(image_encoder\.backbone\.blocks\.\d+\.mlp)\.layers\.0\.", r"\1.proj_in."),
    (r"^(image_encoder\.backbone\.blocks\.\d+\.mlp)\.layers\.1\.", r"\1.proj_out."),
    (r"^(image_encoder\.neck\.convs\.\d+)\.conv\.", r"\1."),
    (r"^no_mem_embed$", "image_encoder.no_memory"),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.(conv_s[01])\.", r"image_encoder.\1."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.mlp)\.layers\.0\.", r"\1.lin1."),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.mlp)\.layers\.1\.", r"\1.lin2."),
)
ORIGINAL_VIDEO = re.compile(
    r"^(memory_attention|memory_encoder|mask_downsample|obj_ptr_proj|obj_ptr_tpos_proj)\."
    r"|^sam_mask_decoder\.pred_obj_score_head\."
    r"|^(maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial)$"
)
"""What only videos need, and whether the object is there at all, which nobody asks of an image."""

HUGGING_FACE: Renames = (
    (r"^mask_decoder\.(conv_s[01])\.", r"image_encoder.\1."),
    (r"^no_memory_embedding$", "image_encoder.no_memory"),
    (r"^(mask_decoder\.transformer\..*)\.o_proj\.", r"\1.out_proj."),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.mlp)\.proj_in\.", r"\1.lin1."),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.mlp)\.proj_out\.", r"\1.lin2."),
)
"""Of what transformers' names for SAM leave to be done."""
HUGGING_FACE_VIDEO = re.compile(
    r"^(memory_attention|memory_encoder|mask_downsample|object_pointer_proj)\."
    r"|^(temporal_positional_encoding_projection_layer|mask_decoder\.pred_obj_score_head)\."
    r"|^(memory_temporal_positional_encoding|no_memory_positional_encoding|no_object_pointer)$"
    r"|^occlusion_spatial_embedding_parameter$"
)

SMALL_WINDOWS, LARGE_WINDOWS = (8, 4, 14, 7), (8, 4, 16, 8)
PUBLISHED = {  # depths: heads of the first stage, windows, blocks with global attention; no tensor's shape tells them
    (1, 2, 7, 2): (1, SMALL_WINDOWS, (5, 7, 9)),
    (1, 2, 11, 2): (1, SMALL_WINDOWS, (7, 10, 13)),
    (2, 3, 16, 3): (2, SMALL_WINDOWS, (12, 16, 20)),
    (2, 6, 36, 4): (2, LARGE_WINDOWS, (23, 33, 43)),
}
"""Hiera-T, -S, -B+ and -L (``sam2/configs`` of SAM 2's repository)."""


def from_original(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image parts of ``sam2_hiera_*.pt`` or ``sam2.1_hiera_*.pt`` under the names of `VisionModel`."""
    images = {name: value for name, value in stored.items() if not ORIGINAL_VIDEO.match(name)}
    return _flattened(renamed(images, ORIGINAL))


def image_parts(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of ``facebook/sam2-hiera-*`` images need, under the names there."""
    return {name: value for name, value in stored.items() if not HUGGING_FACE_VIDEO.match(name)}


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`image_parts`, renamed as transformers' SAM is, under the names of `VisionModel`."""
    tensors = _flattened(renamed(state, HUGGING_FACE))
    points = tensors.pop("prompt_encoder.point_embeddings.weight")
    return tensors | {
        f"prompt_encoder.point_embeddings.{i}.weight": row[None] for i, row in enumerate(points)
    }


def _flattened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "image_encoder.no_memory"
    return tensors | {name: tensors[name].flatten()}


def hiera_config(tensors: Mapping[str, Tensor]) -> HieraConfig:
    """The sizes, from the shapes of tensors that have been renamed, and from what is known of published ones.

    Raises:
        ValueError: no published Hiera has stages of these depths.
    """
    backbone = "image_encoder.backbone"
    blocks = count(tensors, rf"{re.escape(backbone)}\.blocks\.(\d+)\.")
    begins = [i for i in range(blocks) if f"{backbone}.blocks.{i}.proj.weight" in tensors]
    depths = tuple(end - begin for begin, end in pairwise([0, *begins, blocks]))
    if depths not in PUBLISHED:
        raise ValueError(f"no published Hiera has stages of {depths} blocks")
    heads, windows, attentive = PUBLISHED[depths]
    laterals = [tensors[f"image_encoder.neck.convs.{level}.weight"] for level in reversed(range(len(depths)))]
    return HieraConfig(
        widths=tuple(lateral.shape[1] for lateral in laterals),
        depths=depths,
        num_heads=tuple(heads * 2**stage for stage in range(len(depths))),
        window_sizes=windows,
        global_attn_indexes=attentive,
        background_size=tensors[f"{backbone}.pos_embed"].shape[-1],
        output_channels=laterals[0].shape[0],
    )
