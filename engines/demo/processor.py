"""Writes what `vllm serve` reads beside a Qwen2.5-VL's weights: tokenizer, chat template, image processor."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from engines.demo.models import MERGE, PATCH
from engines.demo.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS
from engines.mllm.image import MllmImageConfig


def save_processor(tokenizer: Tokenizer, folder: Path, image: MllmImageConfig, longest: int) -> None:
    """All of it; `longest` is how many tokens a sequence may have.

    Mean and deviation are spelled out: vLLM does not normalise at all where the file leaves them to defaults.
    """
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        model_max_length=longest,
    ).save_pretrained(folder)
    images = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "min_pixels": image.min_pixels,
        "max_pixels": image.max_pixels,
        "image_mean": OPENAI_CLIP_MEAN,
        "image_std": OPENAI_CLIP_STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images, indent=2) + "\n", encoding="utf-8")
