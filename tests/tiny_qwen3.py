"""A tiny Qwen3-VL with random weights in Hugging Face layout, with the tokenizer of the tiny Qwen2.5-VL."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests.tiny_model import build_tiny_model, spread

SIDES = {"shortest_edge": 64 * 64, "longest_edge": 256 * 256}


def build_tiny_qwen3(folder: Path, *, seed: int = 11) -> None:
    """Write tokenizer, processor configuration and bfloat16 weights to `folder`."""
    build_tiny_model(folder)
    (folder / "model.safetensors").unlink()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen3VLProcessor",
        "size": SIDES,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    _write(folder / "preprocessor_config.json", processor)
    _write(
        folder / "video_preprocessor_config.json",
        processor | {"video_processor_type": "Qwen3VLVideoProcessor"},
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(_config(tokenizer))
    spread(model)
    model.to(torch.bfloat16).save_pretrained(folder)


def _config(tokenizer: Tokenizer) -> Qwen3VLConfig:
    def token(name: str) -> int:
        found = tokenizer.token_to_id(name)
        assert found is not None
        return found

    text = {
        "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 262_144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 4,
        "patch_size": 16,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0, 1],
        "out_hidden_size": 128,
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
