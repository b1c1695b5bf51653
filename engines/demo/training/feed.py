"""Scenes rendered ahead, in worker processes, as training batches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from engines.demo.language import Form, Query, ask, survey
from engines.demo.models import MERGE
from engines.demo.scenes import TRAINING_SEEDS, Scene, render_scene
from engines.demo.scenes.render import LONGEST, SHORTEST
from engines.demo.training.answers import AnswerPacker, PackedScene
from engines.demo.training.samples import SceneSample, View, make_sample, make_view

LARGEST = 560
"""The longest side that training scenes are drawn at; both towers shrink larger images to less than this."""
SURVEYED = 0.4
"""The share of scenes about which a survey is asked, too."""
COMPARING: frozenset[Form] = frozenset({"plural", "relation"})
"""What recitals are about more often: it follows from the list of what there is, but needs several things of it."""
SEEN = (" behind ", " in front of ")
"""What only a picture can tell: recitals are never about it."""
DRILLED: frozenset[Form] = frozenset({"position", "plural", "relation", "absent"})
"""What drills are about more often: it needs a look at several things, or at all."""
DRAWN = 3
"""How many scenes are sketched for each that is drawn: that in which most things are half hidden.

They are what the list of what is in view misses most often: in one scene as it comes, one thing of five is such.
"""
HALF_HIDDEN = 0.35
"""The share of a thing that others cover, from which on it counts as half hidden."""
Stage = Literal["heads", "sight", "towers", "joint", "words"]


@dataclass(frozen=True, slots=True)
class BatchSize:
    """Scenes a batch, and for each scene the prompts about its picture and those about what is told of it.

    `drills` are the prompts about the picture that are asked for words alone, beside the `prompts`.
    """

    scenes: int
    prompts: int
    drills: int
    recitals: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Scenes as far as a stage needs them: `views` always, `samples` for both towers, `packed` prompts for all.

    `recitals` are other prompts about the same scenes, told instead of shown.
    """

    views: list[View]
    samples: list[SceneSample]
    packed: list[PackedScene]
    recitals: list[PackedScene]


class SceneFeed(IterableDataset[Batch]):
    """Batches of `size.scenes` scenes with prompts; `start` is the number of batches already seen.

    `tokenizer` is its JSON text.
    """

    def __init__(self, stage: Stage, tokenizer: str, size: BatchSize, start: int) -> None:
        self._stage, self._tokenizer, self._size, self._start = stage, tokenizer, size, start
        self._process, self._processes = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        )

    def __iter__(self) -> Iterator[Batch]:
        """An endless stream: every maker (process and worker) takes its turn."""
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        packer = AnswerPacker(Tokenizer.from_str(self._tokenizer))
        worker = get_worker_info()
        maker, makers = (worker.id, worker.num_workers) if worker else (0, 1)
        index, stride = self._start + maker * self._processes + self._process, makers * self._processes
        while True:
            yield self._batch(index, packer)
            index += stride

    def _batch(self, index: int, packer: AnswerPacker) -> Batch:
        rng = random.Random(index)
        first = index * self._size.scenes
        seeds = [hardest(DRAWN * (first + place)) for place in range(self._size.scenes)]
        scenes = [render_scene(seed, longest=_longest(rng)) for seed in seeds]
        if self._stage == "sight":
            return Batch([make_view(scene) for scene in scenes], [], [], [])
        samples = [make_sample(scene) for scene in scenes]
        views = [sample.view for sample in samples]
        if self._stage == "towers":
            return Batch(views, samples, [], [])
        pairs = zip(scenes, views, strict=True)
        packed = [self._pack(scene, view, packer, rng) for scene, view in pairs]
        recited = scenes if self._size.recitals else []
        recitals = [packer.recite(tellable(scene, self._size.recitals, rng)) for scene in recited]
        return Batch(views, samples, packed, recitals)

    def _pack(self, scene: Scene, view: View, packer: AnswerPacker, rng: random.Random) -> PackedScene:
        queries = ask(scene, rng, self._size.prompts)
        drills = preferring(DRILLED, scene, self._size.drills, rng) if self._size.drills else []
        surveys = [survey(scene, rng)] if rng.random() < SURVEYED else []
        grid = (view.grid[0] // MERGE, view.grid[1] // MERGE)
        return packer.pack(queries, drills, surveys, grid, rng)


def hardest(seed: int) -> int:
    """Of `DRAWN` training seeds from `seed` on, that whose scene, drawn small, has most things half hidden."""
    seeds = [(seed + place) % len(TRAINING_SEEDS) for place in range(DRAWN)]
    return max(seeds, key=lambda one: half_hidden(render_scene(one, longest=SHORTEST)))


def half_hidden(scene: Scene) -> int:
    """How many things of a scene are half hidden."""
    return sum(item.hidden >= HALF_HIDDEN for item in scene.objects)


def preferring(forms: frozenset[Form], scene: Scene, count: int, rng: random.Random) -> list[Query]:
    """Queries among which those of some `forms` are up to twice as many as among all."""
    return _first(forms, ask(scene, rng, 2 * count), count)


def tellable(scene: Scene, count: int, rng: random.Random) -> list[Query]:
    """Queries whose answer follows from the list of what there is, up to `count`, those that compare first."""
    queries = [
        query
        for query in ask(scene, rng, 2 * count)
        if not any(words in query.account.wanted for words in SEEN)
    ]
    return _first(COMPARING, queries, count)


def _first(forms: frozenset[Form], queries: list[Query], count: int) -> list[Query]:
    return sorted(queries, key=lambda query: query.form not in forms)[:count]


def _longest(rng: random.Random) -> int:
    """The longer side of a scene, drawn as `render_scene` draws it, but no longer than it need be."""
    return min(LARGEST, int(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST)))))


def open_feed(
    stage: Stage, tokenizer: Tokenizer, size: BatchSize, start: int, workers: int
) -> Iterator[Batch]:
    """This process's stream of batches, made ahead by `workers` processes; `start` counts all processes' batches."""
    feed = SceneFeed(stage, tokenizer.to_str(), size, start)
    ahead = 4 if workers else None
    return iter(DataLoader(feed, batch_size=None, num_workers=workers, prefetch_factor=ahead))
