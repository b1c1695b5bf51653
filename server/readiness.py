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

    async def warm_up(self) -> None:
        """Warm the vision engine, then try requests until one passes. Raises what `warm_vision` raises."""
        await self._warm_vision()
        self._vision = Check("vision", True)
        while True:
            if all(role.ready for role in await self._roles()):
                self._request = await self._try()
                if self._request.ready:
                    logger.info("ready: a warm-up request has passed")
                    return
            await asyncio.sleep(RETRY_SECONDS)

    async def checks(self) -> list[Check]:
        """Every check as it stands now; asks both vLLM servers, and what requests go on without."""
        return [*await self._roles(), self._vision, self._request, *await self._beside()]

    async def _roles(self) -> list[Check]:
        return [Check(f"mllm.{role.role}", role.healthy, role.detail) for role in await self._health()]

    async def _beside(self) -> list[Check]:
        said = {name: await trouble() for name, trouble in self._troubles.items()}
        return [Check(name, not trouble, trouble, vital=False) for name, trouble in said.items()]

    async def _try(self) -> Check:
        try:
            await self._try_request()
        except EngineError as error:
            logger.warning("the warm-up request failed: %s: %s", type(error).__name__, error)
            return Check("warm_up", False, f"the last try ended in {type(error).__name__}")
        return Check("warm_up", True)
