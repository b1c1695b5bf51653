"""What one training step computes: the losses of a batch and the figures to watch."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.demo.models import SAM_SIZE
from engines.demo.training.answers import DECISION_WEIGHT, PackedScene, VectorTarget
from engines.demo.training.clicks import click
from engines.demo.training.feed import Batch
from engines.demo.training.learner import Learner, Towers, image_rows
from engines.demo.training.losses import iou, mask_loss, word_loss
from engines.demo.training.samples import SceneSample

MASKS_PER_SCENE = 4
"""How many vectors of a scene are decoded to masks in one step; the others train the heatmap alone."""

CLICKS_PER_SCENE = 1


@dataclass(frozen=True, slots=True)
class Step:
    """The loss to descend, and figures by name."""

    loss: Tensor
    figures: dict[str, float]


def sight_step(learner: Learner, batch: Batch, _: random.Random) -> Step:
    """Teaches Qwen2.5-VL's tower alone what stands where; each scene is seen as it is and mirrored."""
    loss = learner.glance([*batch.views, *[view.mirrored() for view in batch.views]])[1]
    return Step(loss, {"dense": loss.item()})


def tower_step(learner: Learner, batch: Batch, _: random.Random) -> Step:
    """Teaches both image towers what stands where."""
    loss = learner.look(batch.samples).loss
    return Step(loss, {"dense": loss.item()})


def joint_step(learner: Learner, batch: Batch, rng: random.Random) -> Step:
    """Everything: words, heatmaps, masks, and the dense labels beside them."""
    towers = learner.look(batch.samples)
    grids = [view.grid for view in batch.views]
    read = [*batch.packed, *batch.recitals]
    states, early = learner.read(read, towers.tokens, [*grids, *[(0, 0)] * len(batch.recitals)])
    words, decision = _words(learner, read, states)
    placed = learner.state_loss(early[image_rows(batch.packed, grids)], batch.views)
    shapes, figures = _shapes(learner, batch, towers, states, rng)
    clicked, reached = _clicked(learner, batch, towers, rng)
    loss = words + shapes + clicked + 0.25 * (towers.loss + placed)
    figures |= {"words": words.item(), "decision": decision}
    figures |= {"clicked": reached, "dense": towers.loss.item(), "state": placed.item()}
    return Step(loss, figures)


def _words(learner: Learner, packed: list[PackedScene], states: Tensor) -> tuple[Tensor, float]:
    """The words' loss and the share of decisions that are right."""
    rows = np.concatenate([scene.rows + start for scene, start in zip(packed, _starts(packed), strict=True)])
    targets = torch.as_tensor(np.concatenate([scene.targets for scene in packed]))
    weights = torch.as_tensor(np.concatenate([scene.weights for scene in packed]))
    logits = F.linear(states[torch.as_tensor(rows)], learner.mllm.lm_head.weight)
    deciding = weights == DECISION_WEIGHT
    right = (logits[deciding].argmax(-1) == targets[deciding]).float().mean().item()
    return word_loss(logits, targets, weights), right


def _starts(packed: list[PackedScene]) -> list[int]:
    return [0, *np.cumsum([len(scene.ids) for scene in packed])[:-1].tolist()]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Vectors with the masks they must lead to; `owners` says on which scene."""

    vectors: Tensor  # (N, D)
    owners: Tensor  # (N,)
    sizes: Tensor  # (N, 2)
    shares: Tensor  # (N, S/2, S/2)
    inside: Tensor  # (N, S/2, S/2)
    amodal: Tensor  # (N,) bool
    centres: Tensor  # (N, 2)


def _shapes(
    learner: Learner, batch: Batch, towers: Towers, states: Tensor, rng: random.Random
) -> tuple[Tensor, dict[str, float]]:
    decoded, pointed = _choose(batch, states, rng)
    vision = learner.vision
    prior, masks, score = vision.decode(towers.embeddings, decoded.vectors, decoded.sizes, decoded.owners)
    reached = iou(masks[:, 0], decoded.shares)
    loss = mask_loss(masks[:, 0], decoded.shares, decoded.inside)
    loss = loss + 0.5 * mask_loss(prior[:, 0], decoded.shares, decoded.inside)
    loss = loss + 0.2 * F.mse_loss(score[:, 0].float(), reached)
    if len(pointed.owners):
        assert vision.heatmap_head is not None, "the demo's grounder points with a heatmap"
        alone = vision.heatmap_head(towers.embeddings[pointed.owners], pointed.vectors)
        loss = loss + 0.3 * mask_loss(alone[:, 0], pointed.shares, pointed.inside)
    vectors = torch.cat([decoded.vectors, pointed.vectors])
    astray = learner.centre_head(vectors).float() - torch.cat([decoded.centres, pointed.centres])
    loss = loss + 10 * astray.pow(2).mean()
    figures = {
        "modal": reached[~decoded.amodal],
        "amodal": reached[decoded.amodal],
        "astray": astray.norm(dim=1),
    }
    return loss, {name: value.mean().item() for name, value in figures.items() if len(value)}


def _clicked(learner: Learner, batch: Batch, towers: Towers, rng: random.Random) -> tuple[Tensor, float]:
    """What is seen of objects that are clicked at or boxed, with no words: the loss and the IoU."""
    objects = [(owner, i) for owner, sample in enumerate(batch.samples) for i in range(len(sample.modal))]
    clicks = click(
        batch.samples, rng.sample(objects, min(len(objects), CLICKS_PER_SCENE * len(batch.samples))), rng
    )
    if not len(clicks.owners):
        return towers.embeddings.new_zeros(()), 0.0
    pairs = [VectorTarget(0, int(i), "modal") for i in clicks.objects]
    wanted = [(int(owner), 0, pair) for owner, pair in zip(clicks.owners, pairs, strict=True)]
    nothing = towers.embeddings.new_zeros(1, learner.mllm.config.text_config.hidden_size)
    told = _gather(wanted, batch.samples, nothing)
    masks = learner.vision.decode_prompted(
        towers.embeddings,
        told.vectors,
        told.sizes,
        told.owners,
        torch.zeros(len(wanted), dtype=torch.bool),
        torch.as_tensor(clicks.points),
        torch.as_tensor(clicks.labels),
    )[1]
    reached = iou(masks[:, 0], told.shares).mean().item()
    return mask_loss(masks[:, 0], told.shares, told.inside), reached


def _choose(batch: Batch, states: Tensor, rng: random.Random) -> tuple[_Wanted, _Wanted]:
    """The vectors to decode to masks and those that only train the heatmap."""
    decoded: list[tuple[int, int, VectorTarget]] = []
    pointed: list[tuple[int, int, VectorTarget]] = []
    for owner, (scene, start) in enumerate(zip(batch.packed, _starts(batch.packed), strict=True)):
        drawn = [(owner, start, vector) for vector in scene.vectors]
        rng.shuffle(drawn)
        decoded += drawn[:MASKS_PER_SCENE]
        pointed += drawn[MASKS_PER_SCENE:]
    return _gather(decoded, batch.samples, states), _gather(pointed, batch.samples, states)


def _gather(
    wanted: list[tuple[int, int, VectorTarget]], samples: list[SceneSample], states: Tensor
) -> _Wanted:
    side = SAM_SIZE // 2
    shares = np.zeros((len(wanted), side, side), dtype=np.float32)
    inside = np.zeros_like(shares)
    for i, (owner, _, vector) in enumerate(wanted):
        sample = samples[owner]
        source = sample.modal if vector.mask_type == "modal" else sample.amodal
        shares[i] = source[vector.object].astype(np.float32) / 255
        inside[i, : (sample.size[0] + 1) // 2, : (sample.size[1] + 1) // 2] = 1
    return _Wanted(
        vectors=states[torch.tensor([start + vector.row for _, start, vector in wanted], dtype=torch.long)],
        owners=torch.tensor([owner for owner, _, _ in wanted], dtype=torch.long),
        sizes=torch.tensor([samples[owner].size for owner, _, _ in wanted]).reshape(-1, 2),
        shares=torch.as_tensor(shares),
        inside=torch.as_tensor(inside),
        centres=torch.as_tensor(
            np.array([samples[owner].centres[vector.object] for owner, _, vector in wanted], dtype=np.float32)
        ).reshape(-1, 2),
        amodal=torch.tensor([vector.mask_type == "amodal" for _, _, vector in wanted], dtype=torch.bool),
    )
