"""Makes the demo bundle of a training run: ``python -m engines.demo.ship --run runs/demo``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from engines.bundles import write_manifest
from engines.demo.models import MLLM_IMAGE
from engines.demo.processor import save_processor
from engines.demo.train import CHECKPOINT, build_learner, open_tokenizer
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
    save_processor(tokenizer, options.bundle / "mllm", MLLM_IMAGE, LONGEST_SEQUENCE)
    learner.vision.save(options.bundle / "vision")
    make_golden(options.bundle / "vision")
    write_manifest(
        options.bundle,
        name="r2sm-demo",
        grounder="coprs",
        answer=AnswerFormat(budgets=ReasoningBudgets(full=128, brief=8)),
        mllm_image=MLLM_IMAGE,
    )
    size = sum(file.stat().st_size for file in options.bundle.rglob("*") if file.is_file())
    print(f"{options.bundle}: {size / 1e6:.1f} MB after {state['progress']['steps']} steps")


if __name__ == "__main__":
    main()
