"""A stream's events put together into the response that the same request would have had at once."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from server.collect import draw_heatmap
from server.events import (
    AcceptedEvent,
    DecisionEvent,
    DoneEvent,
    HeatmapEvent,
    HiddenEvent,
    MaskEvent,
    ReasoningDeltaEvent,
    UnionEvent,
    WireEvent,
)
from server.schemas import DecisionInfo, HeatmapInfo, HiddenInfo, MaskInfo, SegmentResponse, UnionInfo

Kind = TypeVar("Kind")


def gather(events: Sequence[WireEvent]) -> SegmentResponse:
    """The response that a whole stream, ``accepted`` to ``done``, amounts to; the reasoning is always in it."""
    [accepted], [decision] = _all(events, AcceptedEvent), _all(events, DecisionEvent)
    [done] = _all(events, DoneEvent)
    return SegmentResponse(
        id=accepted.id or "",
        model=accepted.model,
        image=accepted.image,
        reasoning="".join(event.text for event in _all(events, ReasoningDeltaEvent)),
        decision=DecisionInfo.model_validate(decision.model_dump()),
        masks=[MaskInfo.model_validate(event.model_dump()) for event in _all(events, MaskEvent)],
        hidden=[HiddenInfo.model_validate(event.model_dump()) for event in _all(events, HiddenEvent)],
        union=[UnionInfo.model_validate(event.model_dump()) for event in _all(events, UnionEvent)] or None,
        heatmap=_largest(_all(events, HeatmapEvent)),
        drafts=done.drafts or None,
        timings_ms=done.timings_ms,
        usage=done.usage,
        warnings=decision.warnings,
    )


def _all(events: Sequence[WireEvent], kind: type[Kind]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


def _largest(heatmaps: Sequence[HeatmapEvent]) -> HeatmapInfo | None:
    """The largest probability, cell by cell."""
    if not heatmaps:
        return None
    files = [io.BytesIO(base64.b64decode(heatmap.png_base64)) for heatmap in heatmaps]
    greys = [np.asarray(Image.open(file, formats=["PNG"]), np.float32) for file in files]
    return draw_heatmap([grey / np.float32(255) for grey in greys])
