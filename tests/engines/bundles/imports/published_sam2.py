"""A tiny random SAM 2 in transformers, and its state under the names of both published layouts."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Sam2Config, Sam2Model

WIDTHS, DEPTHS, HEADS = (8, 16, 32, 64), (1, 2, 7, 2), (1, 2, 4, 8)
WINDOWS, GLOBAL = (8, 4, 14, 7), (5, 7, 9)
CHANNELS = 32

TO_ORIGINAL = (
    (r"^vision_encoder\.backbone\.(blocks\.\d+\.mlp)\.proj_in", r"image_encoder.trunk.\1.layers.0"),
    (r"^vision_encoder\.backbone\.(blocks\.\d+\.mlp)\.proj_out", r"image_encoder.trunk.\1.layers.1"),
    (r"^vision_encoder\.backbone\.(blocks\.\d+)\.layer_norm", r"image_encoder.trunk.\1.norm"),
    (r"^vision_encoder\.backbone\.patch_embed\.projection", "image_encoder.trunk.patch_embed.proj"),
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"^vision_encoder\.neck\.(convs\.\d+)\.", r"image_encoder.neck.\1.conv."),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (
        r"^prompt_encoder\.shared_embedding\.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"^prompt_encoder\.mask_embed\.conv1", "prompt_encoder.mask_downscaling.0"),
    (r"^prompt_encoder\.mask_embed\.layer_norm1", "prompt_encoder.mask_downscaling.1"),
    (r"^prompt_encoder\.mask_embed\.conv2", "prompt_encoder.mask_downscaling.3"),
    (r"^prompt_encoder\.mask_embed\.layer_norm2", "prompt_encoder.mask_downscaling.4"),
    (r"^prompt_encoder\.mask_embed\.conv3", "prompt_encoder.mask_downscaling.6"),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.mlp)\.proj_in", r"\1.layers.0"),
    (r"^(mask_decoder\.transformer\.layers\.\d+\.mlp)\.proj_out", r"\1.layers.1"),
    (r"^(mask_decoder\.transformer\..*)layer_norm", r"\1norm"),
    (r"^(mask_decoder\.transformer\..*)\.o_proj\.", r"\1.out_proj."),
    (r"^mask_decoder\.upscale_conv1", "mask_decoder.output_upscaling.0"),
    (r"^mask_decoder\.upscale_layer_norm", "mask_decoder.output_upscaling.1"),
    (r"^mask_decoder\.upscale_conv2", "mask_decoder.output_upscaling.3"),
    (r"^(mask_decoder\.[a-z_]*(?:mlps\.\d+|_head))\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\.[a-z_]*(?:mlps\.\d+|_head))\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\.[a-z_]*(?:mlps\.\d+|_head))\.proj_out\.", r"\1.layers.2."),
    (r"^(prompt_encoder|mask_decoder)\.", r"sam_\1."),
)
VIDEO = (
    "memory_attention.layers.0.norm1.weight",
    "memory_encoder.out_proj.weight",
    "mask_downsample.weight",
    "obj_ptr_proj.layers.0.weight",
    "obj_ptr_tpos_proj.weight",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
)
VIDEO_AT_HUGGING_FACE = (
    "memory_attention.layers.0.layer_norm1.weight",
    "memory_encoder.projection.weight",
    "mask_downsample.weight",
    "object_pointer_proj.proj_in.weight",
    "temporal_positional_encoding_projection_layer.weight",
    "memory_temporal_positional_encoding",
    "no_memory_positional_encoding",
    "no_object_pointer",
    "occlusion_spatial_embedding_parameter",
)


def build_sam2(side: int, seed: int = 11) -> Sam2Model:
    """A SAM 2 for squares of `side` pixels; every weight drawn, none too small to matter, whatever the side."""
    grid = side // 16
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "hidden_size": WIDTHS[0],
                "image_size": [side, side],
                "blocks_per_stage": list(DEPTHS),
                "embed_dim_per_stage": list(WIDTHS),
                "num_attention_heads_per_stage": list(HEADS),
                "window_size_per_stage": list(WINDOWS),
                "global_attention_blocks": list(GLOBAL),
            },
            "backbone_channel_list": list(reversed(WIDTHS)),
            "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
            "fpn_hidden_size": CHANNELS,
        },
        prompt_encoder_config={"hidden_size": CHANNELS, "image_size": side},
        mask_decoder_config={"hidden_size": CHANNELS, "mlp_dim": 64, "iou_head_hidden_dim": CHANNELS},
    )
    model = Sam2Model(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            deviation = 0.1 if parameter.ndim < 2 else max(0.1, parameter[0].numel() ** -0.5)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation + centre)
        matrix = torch.randn(model.shared_image_embedding.positional_embedding.shape, generator=generator)
        for part in (model.shared_image_embedding, model.prompt_encoder.shared_embedding):
            part.positional_embedding.copy_(matrix)
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight.mul_(8)
    return model


def original_names(model: Sam2Model) -> dict[str, Tensor]:
    """The state as ``sam2.1_hiera_*.pt`` names it, with a tensor of each kind that only videos need."""
    state = {}
    for name, value in model.state_dict().items():
        for pattern, replacement in TO_ORIGINAL:
            name = re.sub(pattern, replacement, name)
        state[name] = value.clone()
    del state["shared_image_embedding.positional_embedding"]
    points = state.pop("sam_prompt_encoder.point_embed.weight")
    state |= {f"sam_prompt_encoder.point_embeddings.{i}.weight": points[i : i + 1].clone() for i in range(4)}
    return state | {name: torch.zeros(1) for name in VIDEO}


def write_original(model: Sam2Model, file: Path) -> Path:
    """A SAM 2 as its authors publish it."""
    torch.save({"model": original_names(model)}, file)
    return file


def write_hugging_face(model: Sam2Model, folder: Path) -> Path:
    """A SAM 2 as ``facebook/sam2.1-hiera-*`` has it."""
    folder.mkdir(parents=True)
    state = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
    save_file(state | {name: torch.zeros(1) for name in VIDEO_AT_HUGGING_FACE}, folder / "model.safetensors")
    return folder
