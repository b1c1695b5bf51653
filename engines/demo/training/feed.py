"""Scenes rendered ahead, in worker processes, as training batches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from engines.demo.language import ask
from engines.demo.scenes import TRAINING_SEEDS, render_scene
from engines.demo.training.answers import AnswerPacker, PackedScene
from engines.demo.training.samples import IMAGE_FACTOR, PATCH, SceneSample, make_sample

SMALLEST, LARGEST = 160, 480
"""Longer sides that training scenes are drawn at; both towers shrink larger images to less than this."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Scenes and, unless only the towers are trained, the prompts on each."""

    samples: list[SceneSample]
    packed: list[PackedScene]


class SceneFeed(IterableDataset[Batch]):
    """Batches of `scenes` scenes with `prompts` prompts each; `start` is the number of batches already seen.

    Without a tokenizer (its JSON text) the batches hold no prompts.
    """

    def __init__(self, tokenizer: str | None, scenes: int, prompts: int, start: int) -> None:
        self._tokenizer, self._scenes, self._prompts, self._start = tokenizer, scenes, prompts, start
        self._process, self._processes = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        )

    def __iter__(self) -> Iterator[Batch]:
        """An endless stream: every maker (process and worker) takes its turn."""
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        packer = AnswerPacker(Tokenizer.from_str(self._tokenizer)) if self._tokenizer else None
        worker = get_worker_info()
        maker, makers = (worker.id, worker.num_workers) if worker else (0, 1)
        index, stride = self._start + maker * self._processes + self._process, makers * self._processes
        while True:
            yield self._batch(index, packer)
            index += stride

    def _batch(self, index: int, packer: AnswerPacker | None) -> Batch:
        seeds = [(index * self._scenes + i) % len(TRAINING_SEEDS) for i in range(self._scenes)]
        rng = random.Random(index)
        samples, packed = [], []
        for seed in seeds:
            longest = int(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
            scene = render_scene(seed, longest=longest)
            sample = make_sample(scene)
            samples.append(sample)
            if packer:
                grid = (sample.grid[0] * PATCH // IMAGE_FACTOR, sample.grid[1] * PATCH // IMAGE_FACTOR)
                packed.append(packer.pack(ask(scene, rng, self._prompts), grid, rng))
        return Batch(samples, packed)


def open_feed(
    tokenizer: Tokenizer | None, scenes: int, prompts: int, start: int, workers: int
) -> Iterator[Batch]:
    """This process's stream of batches, made ahead by `workers` processes; `start` counts all processes' batches."""
    text = tokenizer.to_str() if tokenizer else None
    feed = SceneFeed(text, scenes, prompts, start)
    return iter(
        DataLoader(feed, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    )
