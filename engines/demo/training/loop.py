"""The training loop: optimisers, schedule, checkpoints, progress."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from tqdm import tqdm

from engines.demo.training.feed import Batch
from engines.demo.training.learner import Learner
from engines.demo.training.precision import mixed_precision
from engines.demo.training.steps import Step

WARM_UP_STEPS = 150
CHECKPOINT_SECONDS = 120
MUON_BLOCKS = (
    "mllm.model.language_model.layers",
    "mllm.model.visual.blocks",
    "mllm.model.visual.merger",
    "vision.image_encoder.layers",
    "vision.mask_decoder.transformer",
)
"""Where a matrix is a layer's weight: Muon (Jordan et al. 2024) takes these, AdamW the rest."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up, then constant; with `decay`, falling to a fiftieth over this run's `minutes`."""

    minutes: float
    decay: bool
    peak: float

    def rate(self, step: int, elapsed: float) -> float:
        """The learning rate at `step` (counted over all runs), `elapsed` seconds into this run."""
        left = max(0.02, 1 - elapsed / (60 * self.minutes)) if self.decay else 1.0
        return self.peak * min(1.0, (step + 1) / WARM_UP_STEPS) * left


@dataclass(slots=True)
class Progress:
    """How far training has come, over all runs: `stage` counts its own steps."""

    stage: str
    steps: int = 0
    batches: int = 0
    seconds: float = 0.0


def make_optimisers(learner: Learner) -> list[Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else."""
    matrices, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in learner.named_parameters():
        if not parameter.requires_grad:
            continue
        (matrices if parameter.ndim == 2 and name.startswith(MUON_BLOCKS) else others).append(parameter)
    found: list[Optimizer] = []
    if matrices:
        muon = Muon(matrices, lr=0.0, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw")
        found.append(muon)
    return [*found, AdamW(others, lr=0.0, weight_decay=0.01, betas=(0.9, 0.98))]


def save(path: Path, learner: nn.Module, optimisers: list[Optimizer], progress: Progress) -> None:
    """Write a checkpoint in one piece."""
    state = {
        "learner": learner.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "progress": {name: getattr(progress, name) for name in Progress.__slots__},
    }
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    os.replace(scratch, path)


def restore(path: Path, learner: nn.Module, optimisers: list[Optimizer], stage: str) -> Progress:
    """Take up a checkpoint; another stage's checkpoint gives its weights and the batches it has seen."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location=torch.get_default_device())
    learner.load_state_dict(state["learner"])
    seen = Progress(**state["progress"])
    if seen.stage != stage:
        return Progress(stage, batches=seen.batches, seconds=seen.seconds)
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    return seen


def train(
    learner: Learner,
    optimisers: list[Optimizer],
    feed: Iterator[Batch],
    step: Callable[[Learner, Batch, random.Random], Step],
    schedule: Schedule,
    progress: Progress,
    checkpoint: Path,
) -> None:
    """Train for the schedule's minutes; checkpoints on the way and at the end."""
    began = saved = time.monotonic()
    smooth: dict[str, float] = {}
    first = not dist.is_initialized() or dist.get_rank() == 0
    total = round(schedule.minutes * 60)
    bar = tqdm(total=total, unit="s", desc=progress.stage, mininterval=10, disable=not first)
    seconds_before = progress.seconds
    while (elapsed := _agreed(time.monotonic() - began)) < schedule.minutes * 60:
        rate = schedule.rate(progress.steps, elapsed)
        _descend(learner, optimisers, next(feed), step, rate, random.Random(progress.batches), smooth)
        progress.steps += 1
        progress.batches += dist.get_world_size() if dist.is_initialized() else 1
        progress.seconds = seconds_before + time.monotonic() - began
        bar.update(round(min(elapsed, schedule.minutes * 60)) - bar.n)
        figures = " ".join(f"{name} {value:.3f}" for name, value in smooth.items())
        bar.set_postfix_str(f"step {progress.steps} lr {rate:.1e} {figures}", refresh=False)
        if first and time.monotonic() - saved > CHECKPOINT_SECONDS:
            save(checkpoint, learner, optimisers, progress)
            saved = time.monotonic()
    bar.close()
    if first:
        save(checkpoint, learner, optimisers, progress)


def _agreed(elapsed: float) -> float:
    """The first process's clock, so that all processes stop after the same step."""
    if not dist.is_initialized():
        return elapsed
    clock = torch.tensor([elapsed])
    dist.broadcast(clock, src=0)
    return clock.item()


def _share_gradients(learner: Learner) -> None:
    """Average the gradients over all processes, if there are several."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in learner.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _descend(
    learner: Learner,
    optimisers: list[Optimizer],
    batch: Batch,
    step: Callable[[Learner, Batch, random.Random], Step],
    rate: float,
    rng: random.Random,
    smooth: dict[str, float],
) -> None:
    with mixed_precision():
        done = step(learner, batch, rng)
    done.loss.backward()
    _share_gradients(learner)
    torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    for name, value in done.figures.items():
        smooth[name] = value if name not in smooth else 0.97 * smooth[name] + 0.03 * value
