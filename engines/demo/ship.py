"""Makes the demo bundle of a training run: ``python -m engines.demo.ship --run runs/demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from engines.bundles import write_manifest
from engines.bundles.imports.publish import unfinished
from engines.demo.models import MLLM_IMAGE
from engines.demo.processor import save_processor
from engines.demo.train import CHECKPOINT, TOKENIZER, build_learner, open_tokenizer
from engines.errors import CheckpointError
from engines.mllm.answer import AnswerFormat, ReasoningBudgets
from engines.vision.golden_inputs import make_golden

BUNDLE = Path(__file__).parent / "bundle"
LONGEST_SEQUENCE = 1024


def ship(run: Path, bundle: Path) -> None:
    """Make the bundle of a run; the one that is at `bundle` is replaced when the new one is whole.

    Raises:
        CheckpointError: the run has no weights or no tokenizer, or `bundle` is something else than a bundle.
    """
    for name in (CHECKPOINT, TOKENIZER):
        if not (run / name).is_file():
            raise CheckpointError(f"{run}: there is no {name}: python -m engines.demo.train --out {run}")
    tokenizer = open_tokenizer(run)
    learner = build_learner(tokenizer)
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    learner.load_state_dict(state["learner"])
    with unfinished(bundle) as folder:
        learner.mllm.to(torch.bfloat16).save_pretrained(folder / "mllm")
        save_processor(tokenizer, folder / "mllm", MLLM_IMAGE, LONGEST_SEQUENCE)
        learner.vision.save(folder / "vision")
        make_golden(folder / "vision")
        write_manifest(
            folder,
            name="r2sm-demo",
            grounder="coprs",
            answer=AnswerFormat(budgets=ReasoningBudgets(full=128, brief=8)),
            mllm_image=MLLM_IMAGE,
        )
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    print(f"{bundle}: {size / 1e6:.1f} MB after {state['progress']['steps']} steps")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m engines.demo.ship", description="Makes the demo bundle.")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="where the bundle goes")
    options = parser.parse_args()
    try:
        ship(options.run, options.bundle)
    except CheckpointError as error:
        raise SystemExit(f"{parser.prog}: {error}") from error


if __name__ == "__main__":
    main()
