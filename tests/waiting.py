"""Waiting for what can only be looked at from outside, with a generous deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

SECONDS = 60.0


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = SECONDS
) -> None:
    """Wait until the condition holds. Raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)
