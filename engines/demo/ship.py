"""Makes the demo bundle of a training run: ``python -m engines.demo.ship --run runs/demo``."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from engines.bundles import write_manifest
from engines.demo.models import MERGE, MLLM_IMAGE, PATCH
from engines.demo.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS
from engines.demo.train import CHECKPOINT, build_learner, open_tokenizer
from engines.demo.training.samples import CLIP_MEAN, CLIP_STD
from engines.mllm.answer import AnswerFormat, ReasoningBudgets
from engines.vision.golden_inputs import make_golden

BUNDLE = Path(__file__).parent / "bundle"
LONGEST_SEQUENCE = 1024


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m engines.demo.ship", description="Makes the demo bundle.")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="where the bundle goes")
    options = parser.parse_args()

    tokenizer = open_tokenizer(options.run)
    learner = build_learner(tokenizer)
    state = torch.load(options.run / CHECKPOINT, weights_only=True)
    learner.load_state_dict(state["learner"])
    shutil.rmtree(options.bundle, ignore_errors=True)
    learner.mllm.to(torch.bfloat16).save_pretrained(options.bundle / "mllm")
    save_processor(tokenizer, options.bundle / "mllm")
    learner.vision.save(options.bundle / "vision")
    make_golden(options.bundle / "vision")
    write_manifest(
        options.bundle,
        name="r2sm-demo",
        grounder="coprs",
        answer=AnswerFormat(budgets=ReasoningBudgets(full=160, brief=12)),
        mllm_image=MLLM_IMAGE,
    )
    size = sum(file.stat().st_size for file in options.bundle.rglob("*") if file.is_file())
    print(f"{options.bundle}: {size / 1e6:.1f} MB after {state['progress']['steps']} steps")


def save_processor(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer, the chat template and the image processor as `vllm serve` expects them."""
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        model_max_length=LONGEST_SEQUENCE,
    ).save_pretrained(folder)
    images: dict[str, Any] = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "min_pixels": MLLM_IMAGE.min_pixels,
        "max_pixels": MLLM_IMAGE.max_pixels,
        "image_mean": CLIP_MEAN.tolist(),
        "image_std": CLIP_STD.tolist(),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
