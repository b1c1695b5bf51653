"""The pipeline's events collected into one response."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import AsyncIterator, Sequence, Set
from dataclasses import asdict
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.events import (
    Accepted,
    DecisionMade,
    Done,
    Event,
    HeatmapReady,
    HiddenReady,
    MaskReady,
    ReasoningDelta,
    UnionReady,
)
from server.drawing import Drawing
from server.forms import FORMS, mask_info
from server.schemas import (
    DecisionInfo,
    DraftInfo,
    Extra,
    HeatmapInfo,
    HiddenInfo,
    ImageInfo,
    SegmentResponse,
    UnionInfo,
    UsageInfo,
)


async def collect(
    events: AsyncIterator[Event], model: str, include: Set[Extra], drawing: Drawing
) -> SegmentResponse:
    """Wait for the last event and tell them all at once. Raises what the pipeline raises."""
    seen = [event async for event in events]
    heatmaps = [event.probabilities for event in seen if isinstance(event, HeatmapReady)]
    heatmap = await drawing.drawn(partial(draw_heatmap, heatmaps)) if heatmaps else None
    if include & FORMS:
        return await drawing.drawn(partial(assemble, seen, model, heatmap, include))
    return assemble(seen, model, heatmap, include)


def assemble(
    seen: Sequence[Event], model: str, heatmap: HeatmapInfo | None, include: Set[Extra]
) -> SegmentResponse:
    """The response that a whole sequence of events, `Accepted` to `Done`, amounts to. Blocking as `mask_info`."""
    [accepted] = [event for event in seen if isinstance(event, Accepted)]
    [decision] = [event for event in seen if isinstance(event, DecisionMade)]
    [done] = [event for event in seen if isinstance(event, Done)]
    text = "".join(event.text for event in seen if isinstance(event, ReasoningDelta))
    return SegmentResponse(
        id=f"seg_{uuid.uuid4().hex}",
        model=model,
        image=ImageInfo(id=accepted.digest, width=accepted.width, height=accepted.height),
        reasoning=text if "reasoning" in include else None,
        decision=DecisionInfo(
            mask_type=decision.mask_type, confidence=decision.confidence, source=decision.source
        ),
        warnings=list(decision.warnings),
        masks=[mask_info(event, include) for event in seen if isinstance(event, MaskReady)],
        hidden=[HiddenInfo(**asdict(event)) for event in seen if isinstance(event, HiddenReady)],
        union=(
            [UnionInfo(**asdict(event)) for event in seen if isinstance(event, UnionReady)]
            if "union" in include
            else None
        ),
        heatmap=heatmap,
        drafts=[DraftInfo(**asdict(score)) for score in done.drafts] or None,
        timings_ms=done.timings_ms,
        usage=UsageInfo(**asdict(done.usage)),
    )


def draw_heatmap(heatmaps: Sequence[NDArray[np.float32]]) -> HeatmapInfo:
    """The largest of the probabilities [h, w], cell by cell, as a grey PNG. Blocking."""
    largest = np.maximum.reduce(list(heatmaps))
    buffer = io.BytesIO()
    Image.fromarray((largest * 255).round().astype(np.uint8)).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getbuffer()).decode("ascii")
    return HeatmapInfo(png_base64=encoded, size=list(largest.shape))
