"""The pipeline's events as they go over the wire: numbered, timed, each with its request's id."""

from __future__ import annotations

import time
from collections.abc import Set
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, RootModel

from engines.events import (
    Accepted,
    DecisionMade,
    Done,
    Event,
    HeatmapReady,
    HiddenReady,
    MaskDrafted,
    MaskReady,
    MaskType,
    Rle,
    UnionReady,
)
from server.collect import draw_heatmap
from server.drawing import Drawing
from server.errors import URN, problem_of
from server.forms import FORMS, mask_info
from server.schemas import (
    DecisionInfo,
    DraftInfo,
    Extra,
    HeatmapInfo,
    HiddenInfo,
    ImageInfo,
    MaskInfo,
    Problem,
    UnionInfo,
    UsageInfo,
)
from server.telemetry.record import note_outcome


class _Event(BaseModel):
    """What every event has.

    `id` is the request's: on a WebSocket the client's own, else the server's. It is null where an event is about
    the connection and no request. `seq` counts a request's events from 0; `ms` are milliseconds since `accepted`.
    """

    id: str | None
    seq: int
    ms: float


class AcceptedEvent(_Event):
    """The request has its turn and its image has been read."""

    type: Literal["accepted"] = "accepted"
    model: str
    image: ImageInfo


class ReasoningDeltaEvent(_Event):
    """A piece of the reasoning."""

    type: Literal["reasoning.delta"] = "reasoning.delta"
    text: str


class DraftEvent(_Event):
    """An early guess at a mask, made when the reasoning had `reasoning_tokens`; `number` counts them from 0."""

    type: Literal["mask.draft"] = "mask.draft"
    number: int
    object: int
    mask_type: MaskType
    rle: Rle
    bbox: list[float]
    area: int
    reasoning_tokens: int


class DecisionEvent(_Event, DecisionInfo):
    """Which mask is asked for, and how many objects will get one."""

    type: Literal["decision"] = "decision"
    objects: int
    warnings: list[str] = []


class HeatmapEvent(_Event, HeatmapInfo):
    """The positional prior of one mask."""

    type: Literal["heatmap"] = "heatmap"
    object: int
    mask_type: MaskType


class MaskEvent(_Event, MaskInfo):
    """One mask."""

    type: Literal["mask"] = "mask"


class HiddenEvent(_Event, HiddenInfo):
    """The hidden part of one object; comes with ``"mask_type": "both"``."""

    type: Literal["hidden"] = "hidden"


class UnionEvent(_Event, UnionInfo):
    """All objects as one mask; comes with ``"include": ["union"]``."""

    type: Literal["union"] = "union"


class DoneEvent(_Event):
    """The last event of a request that succeeded."""

    type: Literal["done"] = "done"
    timings_ms: dict[str, float]
    usage: UsageInfo
    drafts: list[DraftInfo] = []


class ErrorEvent(_Event):
    """The last event of a request that failed. `retry_after` is in seconds, where trying again may help."""

    type: Literal["error"] = "error"
    problem: Problem
    retry_after: float | None = None


class PongEvent(_Event):
    """The answer to a WebSocket's ``ping`` message."""

    type: Literal["pong"] = "pong"


WireEvent = (
    AcceptedEvent
    | ReasoningDeltaEvent
    | DraftEvent
    | DecisionEvent
    | HeatmapEvent
    | MaskEvent
    | HiddenEvent
    | UnionEvent
    | DoneEvent
    | ErrorEvent
    | PongEvent
)


class StreamEvent(RootModel[Annotated[WireEvent, Field(discriminator="type")]]):
    """Any event of a stream; `type` says which."""


class Narrator:
    """Tells one request's story: numbers its events and notes when they came. `include` as in its options."""

    def __init__(
        self, id: str | None, model: str, drawing: Drawing, include: Set[Extra] = frozenset()
    ) -> None:
        self.id = id
        self._model = model
        self._drawing = drawing
        self._include = include
        self._seq = 0
        self._accepted: float | None = None

    async def tell(self, event: Event) -> WireEvent:
        """The pipeline's event for the wire."""
        if isinstance(event, HeatmapReady):
            drawn = await self._drawing.drawn(partial(draw_heatmap, [event.probabilities]))
            return HeatmapEvent(
                **self._stamp(), object=event.object, mask_type=event.mask_type, **drawn.model_dump()
            )
        if isinstance(event, MaskReady) and self._include & FORMS:
            info = await self._drawing.drawn(partial(mask_info, event, self._include))
            return MaskEvent(**self._stamp(), **info.model_dump())
        return self._tell(event)

    def fail(self, error: Exception, where: str) -> ErrorEvent:
        """The error that ends the request, as a problem document; `where` is for the log."""
        document = problem_of(error, where)
        note_outcome(document.type.removeprefix(URN))
        return ErrorEvent(
            **self._stamp(),
            problem=document,
            retry_after=getattr(error, "retry_after", 0) or None,
        )

    def pong(self) -> PongEvent:
        """The answer to a ping."""
        return PongEvent(**self._stamp())

    def _tell(self, event: Event) -> WireEvent:
        if isinstance(event, Accepted):
            stamp = self._stamp()
            self._accepted = time.perf_counter()
            image = ImageInfo(id=event.digest, width=event.width, height=event.height)
            return AcceptedEvent(**stamp, model=self._model, image=image)
        if isinstance(event, MaskDrafted):
            return DraftEvent(**self._stamp(), **asdict(event))
        if isinstance(event, DecisionMade):
            return DecisionEvent(**self._stamp(), **asdict(event))
        if isinstance(event, MaskReady):
            return MaskEvent(**self._stamp(), **asdict(event))
        if isinstance(event, HiddenReady):
            return HiddenEvent(**self._stamp(), **asdict(event))
        if isinstance(event, UnionReady):
            return UnionEvent(**self._stamp(), **asdict(event))
        if isinstance(event, Done):
            return DoneEvent(**self._stamp(), **asdict(event))
        assert not isinstance(event, HeatmapReady)
        return ReasoningDeltaEvent(**self._stamp(), text=event.text)

    def _stamp(self) -> dict[str, Any]:
        seq, self._seq = self._seq, self._seq + 1
        elapsed = 0.0 if self._accepted is None else time.perf_counter() - self._accepted
        return {"id": self.id, "seq": seq, "ms": round(elapsed * 1000, 2)}
