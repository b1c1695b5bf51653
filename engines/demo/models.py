"""The sizes of the demo models: a small Qwen2.5-VL and a small SAM."""

from __future__ import annotations

from transformers import Qwen2_5_VLConfig

from engines.mllm.image import MllmImageConfig
from engines.vision.config import DecoderConfig, EncoderConfig, HeatmapConfig, VisionConfig

VECTOR_DIM = 256
PATCH, MERGE = 14, 2
IMAGE_FACTOR = PATCH * MERGE
MLLM_IMAGE = MllmImageConfig(
    min_pixels=130 * IMAGE_FACTOR**2, max_pixels=169 * IMAGE_FACTOR**2, factor=IMAGE_FACTOR
)
SAM_SIZE, SAM_PATCH = 192, 8
ROPE_THETA, ROPE_SECTIONS = 1000.0, (2, 5, 25)
"""M-RoPE's frequencies for time, rows and columns, in radians a token, from the fastest to the slowest.

Chosen so that both are there: frequencies that tell apart the dozen rows (0.65 to 0.27) and columns (0.22 down) of a
demo image, and slow ones (nearly half are below 0.03), by which a word finds the same word sixty tokens back.
"""


def vision_config() -> VisionConfig:
    """SAM at 192 pixels: an embedding [128, 24, 24], masks 96x96."""
    return VisionConfig(
        encoder=EncoderConfig(
            image_size=SAM_SIZE,
            patch_size=SAM_PATCH,
            hidden_size=160,
            num_hidden_layers=6,
            num_attention_heads=5,
            mlp_dim=640,
            window_size=8,
            global_attn_indexes=(2, 5),
            output_channels=128,
        ),
        decoder=DecoderConfig(
            transformer_dim=128, num_heads=4, mlp_dim=512, iou_head_hidden_dim=128, mask_in_chans=16
        ),
        heatmap=HeatmapConfig(vector_dim=VECTOR_DIM, num_heads=4),
    )


def language_config(vocabulary: int, tokens: dict[str, int]) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL with five layers of width 256; `tokens` maps special tokens to ids."""
    text = {
        "vocab_size": vocabulary,
        "hidden_size": VECTOR_DIM,
        "intermediate_size": 704,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": ROPE_THETA,
            "mrope_section": list(ROPE_SECTIONS),
        },
        "bos_token_id": None,
        "eos_token_id": tokens["<|im_end|>"],
        "pad_token_id": tokens["<|endoftext|>"],
    }
    vision = {
        "depth": 6,
        "hidden_size": 160,
        "intermediate_size": 480,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "window_size": 4 * IMAGE_FACTOR,
        "fullatt_block_indexes": [0, 1, 2, 3, 4, 5],
        "out_hidden_size": VECTOR_DIM,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokens["<|image_pad|>"],
        video_token_id=tokens["<|video_pad|>"],
        vision_start_token_id=tokens["<|vision_start|>"],
        vision_end_token_id=tokens["<|vision_end|>"],
        tie_word_embeddings=True,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    )
