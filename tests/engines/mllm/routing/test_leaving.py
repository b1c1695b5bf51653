"""A server that is leaving answers on connections that are open; nothing new goes there, nothing under way is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from engines.mllm.image import Bitmap, MllmImage
from engines.mllm.routing.choice import choose
from engines.mllm.routing.fitness import RoutingLimits
from engines.mllm.routing.role import RoutedRole
from engines.mllm.wire import Pooling, PoolingAnswer, Prefill
from tests.engines.mllm.lasting_server import LastingServer, lasting_server
from tests.engines.mllm.routing.asking import PREFILL, SECONDS, Asking, Heard, deadline

PROBED = RoutingLimits(failures=2, first_pause=0.05, longest_pause=0.1, probe_every=0.05)
PROBED_NO_MORE = RoutingLimits(failures=2, first_pause=600, longest_pause=600, probe_every=0.05)


@dataclass(frozen=True)
class Candidate:
    url: str
    outstanding: int = 0


@dataclass
class Leaving(Asking):
    """A role, the image's own server, and perhaps another one."""

    home: LastingServer
    servers: Sequence[LastingServer]

    async def ask_about(self, images: Sequence[MllmImage]) -> None:
        for image in images:
            prefill = Prefill(image, "the mug", "")
            await self.role.call(Pooling((prefill,)), PoolingAnswer, deadline())

    async def until_left_out(self) -> None:
        """Keep asking, as under load, until the home server is left out; no call may fail meanwhile."""
        async with asyncio.timeout(SECONDS):
            while self.heard.fit[self.home.url]:
                await self.call()

    @asynccontextmanager
    async def left_out_halfway(self) -> AsyncIterator[None]:
        """The home server is left out with an answer under way, which ends well afterwards."""
        self.home.middle.clear()
        under_way = self.texts()
        assert await anext(under_way) == "a"
        await self.call()
        await self.home.shut()
        await self.until_left_out()
        yield
        self.home.middle.set()
        assert [text async for text in under_way] == ["b"]
        assert not self.heard.fit[self.home.url], "what was under way brings nobody back"


@asynccontextmanager
async def leaving(
    number: int, limits: RoutingLimits = PROBED, absent: Sequence[str] = ()
) -> AsyncIterator[Leaving]:
    """So many servers, probed all the time, among the URLs of absent ones."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(lasting_server()) for _ in range(number)]
        heard = Heard()
        role = RoutedRole("concentrate", [*absent, *(server.url for server in servers)], limits, heard)
        stack.push_async_callback(role.aclose)
        role.start()
        url = choose([Candidate(server.url) for server in servers], PREFILL.image.digest).url
        yield Leaving(role, heard, next(server for server in servers if server.url == url), servers)


async def test_one_that_takes_no_new_connections_is_left_alone_until_it_does() -> None:
    async with leaving(2) as those:
        home = those.home
        async with those.left_out_halfway():
            assert home.asked > 2, "it went on answering"
            asked = home.asked
            for _ in range(5):
                await those.call()
            assert home.asked == asked
        await home.open()
        await those.until(home.url, fit=True)
        await those.call()
        assert home.asked == asked + 1
        assert those.heard.ejections == [home.url]


async def test_an_only_one_goes_on_over_the_connections_that_are_open_and_is_back_with_a_probe() -> None:
    async with leaving(1) as those:
        async with those.left_out_halfway():
            asked = those.home.asked
            for _ in range(5):
                await those.call()
            assert those.home.asked == asked + 5
            assert (await those.role.health()).healthy
        await those.home.open()
        await those.until(those.home.url, fit=True)


async def test_where_all_take_no_new_connections_those_are_asked_that_answer(unused_tcp_port: int) -> None:
    """Whomever an image belongs to: of the others some were never there, as with names for servers to come."""
    absent = [f"http://127.0.0.1:{unused_tcp_port}/{name}" for name in "abc"]
    images = [MllmImage(f"sha256:{number}", Bitmap("data:,"), 28, 28) for number in range(12)]
    async with leaving(2, absent=absent) as those:
        for url in absent:
            await those.until(url, fit=False)
        await those.ask_about(images)
        for server in those.servers:
            await server.shut()
        async with asyncio.timeout(SECONDS):
            while any(those.heard.fit.values()):
                await those.ask_about(images)
        retries = those.heard.retries
        await those.ask_about(images)
        assert those.heard.retries == retries
        assert (await those.role.health()).healthy


async def test_a_stream_that_began_in_between_brings_nobody_back() -> None:
    async with leaving(1, PROBED_NO_MORE) as those:
        home = those.home
        await those.call()
        await home.shut()
        await those.until_left_out()
        await home.open()
        home.middle.clear()
        under_way = those.texts()
        assert await anext(under_way) == "a"
        await home.shut()
        home.middle.set()
        assert [text async for text in under_way] == ["b"]
        assert not those.heard.fit[home.url]
