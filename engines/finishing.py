"""Finisher: from decoded logits to heatmaps, masks and hidden parts, in worker threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TypeVar

import numpy as np

from engines.events import (
    DraftScore,
    HeatmapReady,
    HiddenReady,
    MaskDrafted,
    MaskReady,
    MaskType,
    UnionReady,
)
from engines.vision import masks
from engines.vision.preprocess import Prepared
from engines.vision.runtimes.base import Decoded

Item = TypeVar("Item")
Result = TypeVar("Result")

COLUMNS_AT_ONCE = 4096  # pixels across, of all the masks that one thread finishes together


@dataclass(frozen=True, slots=True)
class DecodedMask:
    """What the decoder gave for one mask of one object."""

    object: int
    mask_type: MaskType
    decoded: Decoded


class Finisher:
    """Post-processing on `executor`; `threshold` is the logit above which a pixel belongs to a mask."""

    def __init__(self, executor: Executor, threshold: float) -> None:
        self._executor = executor
        self._threshold = threshold

    async def heatmaps(self, image: Prepared, wanted: Sequence[DecodedMask]) -> list[HeatmapReady]:
        """The positional priors as probabilities over the image's area."""

        def heatmap(item: DecodedMask) -> HeatmapReady:
            values = masks.probabilities(item.decoded.prior_logits, image.size)
            return HeatmapReady(item.object, item.mask_type, values)

        return await self._map(heatmap, wanted)

    async def masks(self, image: Prepared, wanted: Sequence[DecodedMask]) -> list[MaskReady]:
        """The masks at the image's own size."""

        def finished(items: Sequence[DecodedMask]) -> list[MaskReady]:
            logits = np.stack([item.decoded.mask_logits for item in items])
            made = masks.finish_all(logits, image.size, image.original, self._threshold, image.corner)
            return [
                MaskReady(item.object, item.mask_type, mask.rle, mask.bbox, mask.area, item.decoded.iou)
                for item, mask in zip(items, made, strict=True)
            ]

        at_once = max(1, COLUMNS_AT_ONCE // image.original[1])
        groups = [wanted[start : start + at_once] for start in range(0, len(wanted), at_once)]
        return list(chain.from_iterable(await self._map(finished, groups)))

    async def hidden(self, ready: Sequence[MaskReady]) -> list[HiddenReady]:
        """Amodal minus modal, for every object of `ready` that has both."""
        pairs: list[tuple[MaskReady, MaskReady]] = []
        for _, group in groupby(ready, key=lambda mask: mask.object):
            by_type = {mask.mask_type: mask for mask in group}
            if len(by_type) == 2:
                pairs.append((by_type["amodal"], by_type["modal"]))
        return await self._map(_hidden_part, pairs)

    async def unions(self, ready: Sequence[MaskReady]) -> list[UnionReady]:
        """All objects together, for every mask type of `ready`."""

        def union(mask_type: MaskType) -> UnionReady:
            whole = masks.unite([mask.rle for mask in ready if mask.mask_type == mask_type])
            return UnionReady(mask_type, whole.rle, whole.bbox, whole.area)

        return await self._map(union, list(dict.fromkeys(mask.mask_type for mask in ready)))

    async def score(self, drafts: Sequence[MaskDrafted], ready: Sequence[MaskReady]) -> list[DraftScore]:
        """Every draft against the mask of `ready` that it was a draft of, if there is one."""
        finals = {(mask.object, mask.mask_type): mask.rle for mask in ready}

        def score(draft: MaskDrafted) -> DraftScore:
            final = finals.get((draft.object, draft.mask_type))
            iou = None if final is None else masks.iou(draft.rle, final)
            return DraftScore(draft.number, draft.object, draft.mask_type, draft.reasoning_tokens, iou)

        return await self._map(score, drafts)

    async def _map(self, call: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        loop = asyncio.get_running_loop()
        return list(
            await asyncio.gather(*(loop.run_in_executor(self._executor, call, item) for item in items))
        )


def _hidden_part(pair: tuple[MaskReady, MaskReady]) -> HiddenReady:
    amodal, modal = pair
    part = masks.subtract(amodal.rle, modal.rle)
    return HiddenReady(amodal.object, part.rle, part.area / amodal.area if amodal.area else 0.0)
