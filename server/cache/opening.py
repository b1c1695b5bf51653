"""Opens the shared level that the settings ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engines.cache.observer import CacheObserver
from server.cache.redis_level import RedisLevel
from server.settings import Settings


@asynccontextmanager
async def open_redis(settings: Settings, observer: CacheObserver) -> AsyncIterator[RedisLevel | None]:
    """Redis, if the settings name one; it need not be there yet. What was begun on it is finished on the way out."""
    if settings.redis_url is None:
        yield None
        return
    level = RedisLevel(settings.redis_url, settings.redis_prefix, settings.redis_limits, observer)
    try:
        yield level
    finally:
        await level.aclose()
