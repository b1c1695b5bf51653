"""Maps segment-anything's state names, which are ours, to transformers' for the prompt encoder and mask decoder."""

from __future__ import annotations

import re

from torch import Tensor

_RENAMES = [
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"\.(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.0\.", r".\1.proj_in."),
    (r"\.output_hypernetworks_mlps\.(\d+)\.layers\.2\.", r".output_hypernetworks_mlps.\1.proj_out."),
    (r"\.iou_prediction_head\.layers\.2\.", ".iou_prediction_head.proj_out."),
    (r"\.(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.1\.", r".\1.layers.0."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
]


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ``prompt_encoder.*`` and ``mask_decoder.*`` entries under transformers' names."""
    return {_rename(name): value for name, value in state.items() if not name.startswith(("image", "heat"))}


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
