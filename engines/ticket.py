"""Ticket: what goes with one request through the stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engines.deadline import Deadline
from engines.events import Event
from engines.request import SegmentRequest
from engines.stopwatch import Stopwatch


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request on its way through the stages; `emit` takes its events."""

    request: SegmentRequest
    deadline: Deadline
    watch: Stopwatch
    emit: Callable[[Event], None]
