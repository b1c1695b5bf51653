"""RoutedRole: all vLLM servers of one role, asked as if they were one."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel

from engines.errors import MllmUnavailable
from engines.mllm.results import RoleHealth
from engines.mllm.role import KEEP_ALIVE_SECONDS, RequestRefused, VllmRole
from engines.mllm.routing.choice import choose
from engines.mllm.routing.fitness import Fitness, RoutingLimits
from engines.mllm.wire import Call, ChatChunk, Generation
from engines.observers import MllmObserver, NoMllmObserver

Answer = TypeVar("Answer", bound=BaseModel)

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Server:
    """One server, its record, how many calls it is working on, and when something of an answer came last."""

    role: VllmRole
    fitness: Fitness
    outstanding: int = 0
    answered: float = -math.inf
    ejected: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return self.role.url


class RoutedRole:
    """Servers of one role, ``reason`` or ``concentrate``; calls and errors are those of `VllmRole`.

    A call that fails is made once more on another server, as long as the caller has been given no text. While
    every server is ejected all of them are asked again, and after the image's own one any other, so that the first
    that is back is found soon.

    Servers that take no new connections are ejected, too, as those that are leaving, and get nothing while there is
    another. Without another they go on getting calls over the connections that are open, first of all those that have
    just answered on one: so an outage of the name service stops nothing that can go on. An only server that leaves
    therefore works on until it ends, and what it has not finished by then fails.
    """

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        limits: RoutingLimits | None = None,
        observer: MllmObserver | None = None,
    ) -> None:
        """`urls` is not empty. Must be made where an event loop runs."""
        self.name = name
        self._observer = observer or NoMllmObserver()
        self._clock = asyncio.get_running_loop().time
        self._servers = [self._server(url, limits or RoutingLimits()) for url in dict.fromkeys(urls)]
        self._watching: list[asyncio.Task[None]] = []
        for server in self._servers:
            self._tell(server)

    def _server(self, url: str, limits: RoutingLimits) -> _Server:
        fitness = Fitness(limits, self._clock())
        return _Server(VllmRole(self.name, url, self._observer.headers), fitness)

    def start(self) -> None:
        """Begin to probe the servers now and then."""
        self._watching = [asyncio.create_task(self._watch(server)) for server in self._servers]

    async def aclose(self) -> None:
        """Stop probing and close the connections."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await asyncio.gather(*(server.role.aclose() for server in self._servers))

    async def call(self, request: Call, answer: type[Answer], deadline: float) -> Answer:
        """Send a request and read its whole answer."""
        server = self._choose(request)
        try:
            with self._working(server):
                return await server.role.call(request, answer, deadline)
        except MllmUnavailable as fault:
            other = self._other(server, request, fault)
        with self._working(other):
            return await other.role.call(request, answer, deadline)

    async def stream(self, request: Generation, deadline: float) -> AsyncGenerator[ChatChunk]:
        """Send a request and yield its events; closing the generator makes the server abort the request."""
        server, told = self._choose(request), False
        try:
            async with aclosing(self._stream_from(server, request, deadline)) as chunks:
                async for chunk in chunks:
                    told = told or bool(chunk.text)
                    yield chunk
            return
        except MllmUnavailable as fault:
            if told:
                raise
            other = self._other(server, request, fault)
        async with aclosing(self._stream_from(other, request, deadline)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def health(self) -> RoleHealth:
        """Whether any server is well or has just answered a call, and which ones are not well; never raises.

        One that is left out is not waited for: it may hang, and its own probes will tell when it is back. What is
        found counts for and against nobody: who asks, and how often, is not this role's to say.
        """
        asked = _fit(self._servers) or self._servers
        left_out = [server for server in self._servers if server not in asked]
        probes = await asyncio.gather(*(server.role.probe() for server in asked))
        faults = [probe.fault for probe in probes if not probe.well]
        faults += [f"{server.url} is left out" for server in left_out]
        healthy = any(probe.well for probe in probes) or bool(self._answering(self._servers))
        return RoleHealth(self.name, healthy, "; ".join(faults))

    async def _stream_from(
        self, server: _Server, request: Generation, deadline: float
    ) -> AsyncGenerator[ChatChunk]:
        with self._working(server):
            async with aclosing(server.role.stream(request, deadline)) as chunks:
                async for chunk in chunks:
                    server.fitness.told()
                    server.answered = self._clock()
                    yield chunk

    def _choose(self, request: Call) -> _Server:
        usable = _fit(self._servers) or self._answering(self._servers) or self._servers
        return choose(usable, request.image.digest)

    def _other(self, failed: _Server, request: Call, fault: MllmUnavailable) -> _Server:
        """The server to ask in place of one that failed. Raises `fault` if there is none, or no use in it."""
        others = [server for server in self._servers if server is not failed]
        fit = _fit(others)
        if isinstance(fault, RequestRefused) or not others or (failed.fitness.fit and not fit):
            raise fault
        log.warning("asking another %s server: %s", self.name, fault)
        self._observer.retried(self.name)
        usable = fit or self._answering(others)
        return choose(usable, request.image.digest) if usable else random.choice(others)

    def _answering(self, servers: Sequence[_Server]) -> list[_Server]:
        """Those that have told something so lately that a connection to them should still be open."""
        since = self._clock() - KEEP_ALIVE_SECONDS
        return [server for server in servers if server.answered > since]

    @contextmanager
    def _working(self, server: _Server) -> Iterator[None]:
        """Count a call as the server's work, and its end for or against the server."""
        server.outstanding += 1
        self._tell(server)
        try:
            yield
            self._succeeded(server)
        except RequestRefused:
            self._succeeded(server)
            raise
        except GeneratorExit:  # a stream that was closed had begun
            server.fitness.succeeded(self._clock())
            raise
        except MllmUnavailable as fault:
            if server.fitness.failed(self._clock()):
                self._eject(server, str(fault))
            raise
        finally:
            server.outstanding -= 1
            self._tell(server)

    def _succeeded(self, server: _Server) -> None:
        server.answered = self._clock()
        server.fitness.succeeded(server.answered)

    async def _watch(self, server: _Server) -> None:
        while True:
            wait = server.fitness.until_probe(self._clock())
            server.ejected.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await server.ejected.wait()
                    continue  # its next probe is due at another time now
            await self._probe(server)

    async def _probe(self, server: _Server) -> None:
        was_fit = server.fitness.fit
        probe = await server.role.probe()
        if server.fitness.probed(probe, self._clock()):
            self._eject(server, probe.fault)
        elif server.fitness.fit and not was_fit:
            log.warning("the %s server at %s is back", self.name, server.url)
        self._tell(server)

    def _eject(self, server: _Server, why: str) -> None:
        log.warning("the %s server at %s is left out until it is well: %s", self.name, server.url, why)
        self._observer.ejected(self.name, server.url)
        server.ejected.set()

    def _tell(self, server: _Server) -> None:
        self._observer.server(self.name, server.url, fit=server.fitness.fit, outstanding=server.outstanding)


def _fit(servers: Sequence[_Server]) -> list[_Server]:
    return [server for server in servers if server.fitness.fit]
