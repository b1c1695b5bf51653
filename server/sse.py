"""Reading server-sent events: lines in, events out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from server.events import StreamEvent, WireEvent


async def read_events(lines: AsyncIterator[str]) -> AsyncGenerator[WireEvent, None]:
    """The events of a stream; heartbeats are passed over. Raises `ValidationError` for anything else."""
    async for line in lines:
        if line.startswith("data: "):
            yield StreamEvent.model_validate_json(line.removeprefix("data: ")).root
