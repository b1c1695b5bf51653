"""Readiness: whether a request could be served now."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from engines.errors import EngineError
from engines.mllm.results import RoleHealth

RETRY_SECONDS = 1.0
KEPT_SECONDS = 1.0
"""How long an answer serves all who ask: anybody may, and each look asks servers over connections of its own."""
NO_SERVER = "no server answers"

logger = logging.getLogger(__name__)
Trouble = Callable[[], Awaitable[str]]
MllmHealth = Callable[[], Awaitable[Sequence[RoleHealth]]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold; `detail` says why it does not, in words for anybody.

    Without one that is not `vital` it goes on, worse.
    """

    name: str
    ready: bool
    detail: str = ""
    vital: bool = True


class Readiness:
    """Ready when both vLLM servers are well and a warm-up request has passed through them and the vision engine.

    `warm_vision` runs the vision engine once, `try_request` one request through everything. `troubles` say by name
    what is wrong with things that requests go on without, such as the shared level of the caches. Which vLLM server
    is not well, and why, is in the log whenever a role comes or goes; outside only the role is told.
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
        self._answered = -math.inf
        self._was_ready: dict[str, bool] = {}

    async def warm_up(self) -> None:
        """Try the vision engine until it works, then requests until one passes."""
        while not (self._vision.ready and self._request.ready):
            if not self._vision.ready:
                self._vision = await _tried("vision", self._warm_vision)
            elif all(role.ready for role in await self._roles()):
                self._request = await _tried("warm_up", self._try_request)
            if not (self._vision.ready and self._request.ready):
                await asyncio.sleep(RETRY_SECONDS)
        self._answered = -math.inf  # what was seen before is no longer so
        logger.info("ready: a warm-up request has passed")

    async def checks(self) -> list[Check]:
        """Every check; of the servers, and of what goes on without, as it stood at most a second ago."""
        if self._asking is None or (self._asking.done() and self._is_old()):
            self._asking = asyncio.create_task(self._ask())
        outside = await asyncio.shield(self._asking)
        return [self._vision, self._request, *outside]

    async def aclose(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> list[Check]:
        """Asks both vLLM servers, and what requests go on without."""
        try:
            return [*await self._roles(), *await self._beside()]
        finally:
            self._answered = time.monotonic()

    def _is_old(self) -> bool:
        return time.monotonic() - self._answered >= KEPT_SECONDS

    async def _roles(self) -> list[Check]:
        return [self._checked(role) for role in await self._health()]

    def _checked(self, role: RoleHealth) -> Check:
        name = f"mllm.{role.role}"
        before = self._was_ready.get(name)
        if role.healthy and before is False:
            logger.info("%s is ready", name)
        elif not role.healthy and before is not False:
            level = logging.WARNING if before else logging.INFO  # a server that starts takes its time
            logger.log(level, "%s is not ready: %s", name, role.detail)
        self._was_ready[name] = role.healthy
        return Check(name, role.healthy, "" if role.healthy else NO_SERVER)

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
