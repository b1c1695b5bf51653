"""Readiness: whether a request could be served now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from engines.errors import EngineError
from engines.mllm.results import RoleHealth

RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)
Trouble = Callable[[], Awaitable[str]]
MllmHealth = Callable[[], Awaitable[Sequence[RoleHealth]]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold; `detail` says why it does not. Without one that is not `vital` it goes on, worse."""

    name: str
    ready: bool
    detail: str = ""
    vital: bool = True


class Readiness:
    """Ready when both vLLM servers are well and a warm-up request has passed through them and the vision engine.

    `warm_vision` runs the vision engine once, `try_request` one request through everything. `troubles` say by name
    what is wrong with things that requests go on without, such as the shared level of the caches.
    """

    def __init__(
        self,
        warm_vision: Callable[[], Awaitable[None]],
        try_request: Callable[[], Awaitable[None]],
        health: MllmHealth,
        troubles: Mapping[str, Trouble] | None = None,
    ) -> None:
        self._warm_vision = warm_vision
        self._try_request = try_request
        self._health = health
        self._troubles = dict(troubles or {})
        self._vision = Check("vision", False, "not warm yet")
        self._request = Check("warm_up", False, "no request has passed yet")
        self._asking: asyncio.Task[list[Check]] | None = None

    async def warm_up(self) -> None:
        """Try the vision engine until it works, then requests until one passes."""
        while not (self._vision.ready and self._request.ready):
            if not self._vision.ready:
                self._vision = await _tried("vision", self._warm_vision)
            elif all(role.ready for role in await self._roles()):
                self._request = await _tried("warm_up", self._try_request)
            if not (self._vision.ready and self._request.ready):
                await asyncio.sleep(RETRY_SECONDS)
        logger.info("ready: a warm-up request has passed")

    async def checks(self) -> list[Check]:
        """Every check as it stands now; who asks at the same time gets the same answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def aclose(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> list[Check]:
        """Asks both vLLM servers, and what requests go on without."""
        return [*await self._roles(), self._vision, self._request, *await self._beside()]

    async def _roles(self) -> list[Check]:
        return [Check(f"mllm.{role.role}", role.healthy, role.detail) for role in await self._health()]

    async def _beside(self) -> list[Check]:
        said = {name: await trouble() for name, trouble in self._troubles.items()}
        return [Check(name, not trouble, trouble, vital=False) for name, trouble in said.items()]


async def _tried(name: str, attempt: Callable[[], Awaitable[None]]) -> Check:
    """What came of one attempt. Whatever it ended in, the next may pass: a machine that loads models lacks much."""
    try:
        await attempt()
    except Exception as error:
        unexpected = not isinstance(error, EngineError)
        logger.warning("%s: %s: %s", name, type(error).__name__, error, exc_info=unexpected)
        return Check(name, False, f"the last try ended in {type(error).__name__}")
    return Check(name, True)
