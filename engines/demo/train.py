"""Trains the demo models: ``python -m engines.demo.train --out runs/demo --stage towers --minutes 15``.

First the stages ``sight`` (Qwen2.5-VL's image tower learns what stands where) and ``towers`` (SAM's does, too),
then ``joint`` (prompts, reasoning, heatmaps and masks) and ``words`` (the same with SAM's tower at rest); run
them as often as wanted, the last time with ``--decay``. A bundle holds no heads of the dense labels: a run that
begins with one begins with the stage ``heads``, in which nothing else learns. Runs resume from the checkpoint in
``--out``. Two processes of one thread each use two cores far better than one process with two threads:
``python -m torch.distributed.run --nproc-per-node 2 -m engines.demo.train …``.
``python -m engines.demo.ship`` makes a bundle of the result.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from engines.allocation import keep_freed_memory
from engines.demo.language import ask
from engines.demo.models import language_config, vision_config
from engines.demo.scenes import render_scene
from engines.demo.tokenizer import VOCABULARY, token_ids, train_tokenizer
from engines.demo.training.feed import BatchSize, open_feed
from engines.demo.training.learner import Learner
from engines.demo.training.loop import Progress, Schedule, make_optimisers, restore, train
from engines.demo.training.steps import joint_step, sight_step, tower_step

CHECKPOINT = "checkpoint.pt"
TOKENIZER = "tokenizer.json"
TOKENIZER_SCENES = 1500
STEPS = {
    "heads": joint_step,
    "sight": sight_step,
    "towers": tower_step,
    "joint": joint_step,
    "words": joint_step,
}


def open_tokenizer(folder: Path) -> Tokenizer:
    """The run's tokenizer, trained on the demo's own sentences the first time."""
    path = folder / TOKENIZER
    if not path.exists():
        print(f"training the tokenizer on the sentences of {TOKENIZER_SCENES} scenes", flush=True)
        rng = random.Random(0)
        scenes = (render_scene(seed, longest=160) for seed in range(TOKENIZER_SCENES))
        queries = (query for scene in scenes for query in ask(scene, rng, 12))
        sentences = [text for query in queries for text in (query.prompt, query.reasoning)]
        scratch = _scratch(path)
        train_tokenizer(sentences).save(str(scratch))
        os.replace(scratch, path)
    return Tokenizer.from_file(str(path))


def _keep(source: Path, path: Path) -> None:
    """Copy a file that another process may be reading, or writing just as well."""
    os.replace(shutil.copyfile(source, _scratch(path)), path)


def _scratch(path: Path) -> Path:
    return path.with_suffix(f".{os.getpid()}")


def build_learner(tokenizer: Tokenizer) -> Learner:
    """Both demo models with fresh weights."""
    return Learner(language_config(VOCABULARY, token_ids(tokenizer)), vision_config())


def choose_device() -> torch.device:
    """A GPU of its own for each process where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def rest(learner: Learner, stage: str) -> None:
    """Let what a stage does not teach be."""
    if stage == "words":
        learner.vision.image_encoder.requires_grad_(False)
    if stage == "heads":
        learner.mllm.requires_grad_(False)
        learner.vision.requires_grad_(False)


def join_processes() -> None:
    """Meet the other processes, if ``torch.distributed.run`` started several."""
    if "RANK" not in os.environ:
        return
    if torch.cuda.is_available():
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m engines.demo.train", description="Trains the demo models."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--stage", choices=tuple(STEPS), default="joint")
    parser.add_argument("--bundle", type=Path, help="begin with this bundle's weights, where --out has none")
    parser.add_argument("--minutes", type=float, required=True, help="how long this run trains")
    parser.add_argument(
        "--decay", action="store_true", help="let the learning rate fall to a fiftieth in this run"
    )
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--scenes", type=int, default=8, help="scenes a batch")
    parser.add_argument("--prompts", type=int, default=8, help="prompts a scene")
    parser.add_argument("--drills", type=int, default=4, help="more prompts a scene, for words alone")
    parser.add_argument("--recitals", type=int, default=6, help="prompts a scene that are told, not shown")
    parser.add_argument("--workers", type=int, default=1, help="processes that render scenes ahead")
    options = parser.parse_args()
    for name, least in (("scenes", 1), ("prompts", 1), ("drills", 0), ("recitals", 0)):
        if getattr(options, name) < least:
            parser.error(f"there is nothing to learn from: --{name} must be at least {least}")

    options.out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    join_processes()
    torch.set_default_device(choose_device())
    torch.manual_seed(0)
    checkpoint = options.out / CHECKPOINT
    if options.bundle and not checkpoint.exists():
        _keep(options.bundle / "mllm" / TOKENIZER, options.out / TOKENIZER)
    tokenizer = open_tokenizer(options.out)
    learner = build_learner(tokenizer)
    if options.bundle:
        learner.start_from(options.bundle)
    rest(learner, options.stage)
    optimisers = make_optimisers(learner)
    progress = Progress(options.stage)
    if checkpoint.exists():
        progress = restore(checkpoint, learner, optimisers, options.stage)
        print(f"resuming: stage {progress.stage}, step {progress.steps}", flush=True)
    size = BatchSize(options.scenes, options.prompts, options.drills, options.recitals)
    feed = open_feed(options.stage, tokenizer, size, progress.batches, options.workers)
    schedule = Schedule(options.minutes, options.decay, options.rate)
    train(learner, optimisers, feed, STEPS[options.stage], schedule, progress, checkpoint)


if __name__ == "__main__":
    main()
