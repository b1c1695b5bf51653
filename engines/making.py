"""From vectors to masks: decoded together with other requests', then finished one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from engines.batching import MicroBatcher
from engines.early import Begun
from engines.events import MaskReady, MaskType
from engines.finishing import DecodedMask, Finisher
from engines.images import PreparedImage
from engines.mllm.interface import Vectors
from engines.ticket import Ticket
from engines.vision.runtimes.base import Decoded, DecodeItem, Embedding

ObjectVectors = Sequence[NDArray[np.float32] | None] | Vectors
"""One for each object; None where points say it all."""
NOTHING_BEGUN: Begun = MappingProxyType({})


class MaskMaker:
    """Makes the masks of one request after another; requests meet in `decoder`."""

    def __init__(self, decoder: MicroBatcher[DecodeItem, Decoded], finisher: Finisher) -> None:
        self._decoder = decoder
        self._finisher = finisher

    async def make(
        self,
        ticket: Ticket,
        image: PreparedImage,
        embedding: Embedding,
        vectors: Mapping[MaskType, ObjectVectors],
        begun: Begun = NOTHING_BEGUN,
    ) -> list[MaskReady]:
        """The masks, and all that is made of them; each becomes an event."""
        with ticket.watch.stage("decode"):
            decoded = await self.decode(ticket, image, embedding, vectors, begun)
        with ticket.watch.stage("finish"):
            if ticket.request.heatmap and ticket.request.prompt:  # nothing but words gives a heatmap
                for heatmap in await self._finisher.heatmaps(image.vision, decoded):
                    ticket.emit(heatmap)
            return await self.finish(ticket, image, decoded)

    async def decode(
        self,
        ticket: Ticket,
        image: PreparedImage,
        embedding: Embedding,
        vectors: Mapping[MaskType, ObjectVectors],
        begun: Begun = NOTHING_BEGUN,
        *,
        patient: bool = False,
    ) -> list[DecodedMask]:
        """Every object's masks, in one group: object by object, modal before amodal; `patient` lets others first."""
        objects = len(next(iter(vectors.values())))
        wanted = [(number, mask_type) for number in range(objects) for mask_type in vectors]
        visual, size = ticket.request.visual, image.vision.size
        sparse = None if visual is None else visual.sparse(image.vision.original, size, image.vision.corner)
        items = [DecodeItem(embedding, vectors[kind][number], size, sparse) for number, kind in wanted]
        early = [begun.get(b"" if item.vector is None else item.vector.tobytes()) for item in items]
        due = [item for item, task in zip(items, early, strict=True) if task is None]
        rest = iter(await self._decoder.submit_all(due, patient=patient or ticket.request.patient))
        decoded = [next(rest) if task is None else await task for task in early]
        return [DecodedMask(number, kind, one) for (number, kind), one in zip(wanted, decoded, strict=True)]

    async def finish(
        self, ticket: Ticket, image: PreparedImage, decoded: list[DecodedMask]
    ) -> list[MaskReady]:
        """The masks of what has been decoded, hidden parts and unions; each becomes an event."""
        request = ticket.request
        masks = await self._finisher.masks(image.vision, decoded)
        for mask in masks:
            ticket.watch.mark("ttfm")
            ticket.emit(mask)
        if request.mask_type == "both":
            for hidden in await self._finisher.hidden(masks):
                ticket.emit(hidden)
        if request.union:
            for union in await self._finisher.unions(masks):
                ticket.emit(union)
        return masks
