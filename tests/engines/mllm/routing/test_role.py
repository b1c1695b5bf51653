"""Several servers of a role, against scripted HTTP servers that stand in for vLLM: retry, ejection, return."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from engines.errors import DeadlineExceeded, MllmUnavailable
from engines.mllm.role import RequestRefused
from engines.mllm.routing.choice import choose
from engines.mllm.routing.fitness import RoutingLimits
from engines.mllm.routing.role import RoutedRole
from engines.mllm.wire import Pooling, PoolingAnswer
from tests.engines.mllm.routing.asking import PREFILL, SECONDS, Asking, Heard, deadline
from tests.engines.mllm.scripted_server import Exchange, scripted_server

LIMITS = RoutingLimits(failures=2, first_pause=0.05, longest_pause=0.1, probe_every=0.05)
PATIENT = RoutingLimits(failures=2, first_pause=600, longest_pause=600, probe_every=600)
VECTOR = {"index": 0, "object": "embedding", "embedding": base64.b64encode(bytes(8)).decode()}


@dataclass
class StandIn:
    """In a vLLM server's place: well or `sick`, silent, breaking off, or holding its answers back at a `gate`.

    One that is `slow` says nothing of its health; one that `runs_on` tells its first word until it is to end.
    """

    sick: bool = False
    slow: bool = False
    runs_on: bool = False
    refusing: bool = False
    words: tuple[str, ...] = ("a", "b")
    breaks_after: int | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    asked: list[str] = field(default_factory=list)
    health_asked: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def outstanding(self) -> int:
        return 0

    async def reply(self, exchange: Exchange) -> None:
        if exchange.path == "/health":
            self.health_asked += 1
            if self.slow:
                await exchange.until_left()
            await exchange.respond({}, 503 if self.sick else 200)
            return
        self.asked.append(exchange.path)
        await self.gate.wait()
        if self.sick or self.refusing:
            await exchange.respond({"error": {"message": "no"}}, 500 if self.sick else 400)
        elif exchange.path == "/v1/embeddings":
            await exchange.respond({"data": [VECTOR]})
        else:
            await self._stream(exchange)

    async def _stream(self, exchange: Exchange) -> None:
        chunks = [{"choices": [{"delta": {"content": word}}]} for word in ("", *self.words)]
        end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        await exchange.stream()
        while self.runs_on:
            await exchange.tell(chunks[1])
            await asyncio.sleep(0.01)
        await exchange.tell(*[*chunks, end, "[DONE]"][: self.breaks_after])


@dataclass
class Farm(Asking):
    """A role and its servers in the order in which the image likes them."""

    servers: list[StandIn]

    def asked(self) -> list[int]:
        return [len(server.asked) for server in self.servers]

    async def ejected(self) -> None:
        """Make every server sick, and notice."""
        for server in self.servers:
            server.sick = True
        while any(self.heard.fit.values()):
            with pytest.raises(MllmUnavailable):
                await self.call()


@asynccontextmanager
async def farm(
    number: int = 2, limits: RoutingLimits = PATIENT, *, watch: bool = False
) -> AsyncIterator[Farm]:
    async with AsyncExitStack() as stack:
        servers, left, heard = [], [StandIn() for _ in range(number)], Heard()
        for server in left:
            server.url = (await stack.enter_async_context(scripted_server(server.reply))).url
        role = RoutedRole("concentrate", [server.url for server in left], limits, heard)
        stack.push_async_callback(role.aclose)
        if watch:
            role.start()
        while left:
            servers.append(choose(left, PREFILL.image.digest))
            left.remove(servers[-1])
        yield Farm(role, heard, servers)


async def test_calls_about_one_image_stay_on_one_server() -> None:
    async with farm(3) as those:
        for _ in range(4):
            await those.call()
            assert await those.stream() == ["a", "b"]
        assert those.asked() == [8, 0, 0]


async def test_an_image_leaves_its_server_when_that_is_clearly_busier() -> None:
    async with farm() as those:
        await those.call()  # it is there: calls wait for nobody who brings it
        those.servers[0].gate.clear()
        calls = []
        for number in range(1, 5):
            calls.append(asyncio.create_task(those.call()))
            async with asyncio.timeout(SECONDS):
                while sum(those.asked()) < 1 + number:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert those.asked() == [4, 1]
        assert those.heard.outstanding[those.servers[0].url] == 3
        those.servers[0].gate.set()
        await asyncio.gather(*calls)
        assert set(those.heard.outstanding.values()) == {0}


async def test_a_call_that_fails_is_made_once_more_elsewhere() -> None:
    async with farm(3) as those:
        those.servers[0].sick = True
        await those.call()
        assert await those.stream() == ["a", "b"]
        assert those.asked() == [3, 2, 0], "the second failure could have been for want of the image"
        assert those.heard.retries == 2
        assert those.heard.ejections == [those.servers[0].url]
        await those.call()
        assert those.asked() == [3, 3, 0], "the server that failed twice is left out"


async def test_a_call_is_made_no_third_time() -> None:
    async with farm(3) as those:
        those.servers[0].sick = those.servers[1].sick = True
        with pytest.raises(MllmUnavailable):
            await those.call()
        assert those.asked() == [1, 1, 0]


async def test_a_stream_that_broke_before_its_first_word_begins_again_elsewhere() -> None:
    async with farm() as those:
        for breaks in (0, 1):
            those.servers[0].breaks_after = breaks
            assert await those.stream() == ["a", "b"]
        assert those.asked() == [2, 2]


async def test_a_stream_that_has_told_something_is_not_begun_again() -> None:
    async with farm() as those:
        those.servers[0].breaks_after = 2
        texts = those.texts()
        assert await anext(texts) == "a"
        with pytest.raises(MllmUnavailable):
            await anext(texts)
        assert those.asked() == [1, 0]


async def test_a_refused_request_is_refused_at_once_and_held_against_nobody() -> None:
    async with farm() as those:
        those.servers[0].refusing = True
        for _ in range(4):
            with pytest.raises(RequestRefused):
                await those.call()
        assert (those.asked(), those.heard.ejections) == ([4, 0], [])


async def test_a_deadline_is_held_against_nobody() -> None:
    async with farm() as those:
        those.servers[0].gate.clear()
        async with asyncio.timeout(SECONDS):
            while sum(those.asked()) < 3:  # a call may be late before it gets there
                with pytest.raises(DeadlineExceeded):
                    await those.role.call(Pooling((PREFILL,)), PoolingAnswer, deadline(0.3))
        assert (those.asked()[1], those.heard.ejections) == (0, [])
        assert set(those.heard.outstanding.values()) == {0}
        those.servers[0].gate.set()


async def test_streams_that_are_closed_early_leave_no_load() -> None:
    async with farm() as those:
        for _ in range(4):
            texts = those.texts()
            assert await anext(texts) == "a"
            await texts.aclose()
        assert set(those.heard.outstanding.values()) == {0}
        assert those.asked() == [4, 0]


@pytest.mark.parametrize("back", [0, 1, 2])
async def test_when_all_are_away_calls_fail_and_the_first_that_is_back_serves(back: int) -> None:
    async with farm(3) as those:
        await those.ejected()
        assert sorted(those.heard.ejections) == sorted(server.url for server in those.servers)
        assert not (await those.role.health()).healthy
        those.servers[back].sick = False
        async with asyncio.timeout(SECONDS):
            while not those.heard.fit[those.servers[back].url]:
                with suppress(MllmUnavailable):
                    await those.call()
        before = those.asked()[back]
        await those.call()
        assert those.asked()[back] == before + 1


async def test_when_all_but_an_images_own_server_are_back_no_call_fails() -> None:
    async with farm(3) as those:
        await those.ejected()
        for server in those.servers[1:]:
            server.sick = False
        assert await those.stream() == ["a", "b"]
        await those.call()


async def test_when_all_are_away_two_of_them_are_asked_not_always_the_same() -> None:
    async with farm(3) as those:
        await those.ejected()
        before = those.asked()
        for _ in range(40):
            with pytest.raises(MllmUnavailable):
                await those.call()
        home, *others = (now - then for now, then in zip(those.asked(), before, strict=True))
        assert home == sum(others) == 2 * 40, "either failure could have been for want of the image"
        assert all(others)


async def test_a_server_returns_after_a_probe_and_is_asked_again() -> None:
    async with farm(limits=LIMITS, watch=True) as those:
        home = those.servers[0]
        home.sick = True
        await those.until(home.url, fit=False)
        await those.call()
        assert those.asked() == [0, 1], "probes alone have found it out"
        home.sick = False
        await those.until(home.url, fit=True)
        await those.call()
        assert those.asked() == [1, 1]


async def test_a_server_that_streams_is_not_left_out_though_its_probes_are_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engines.mllm.role.HEALTH_SECONDS", 0.1)
    async with farm(1, LIMITS, watch=True) as those:
        home = those.servers[0]
        home.slow, home.runs_on = True, True
        async for _ in those.texts():
            home.runs_on = home.health_asked < 5
        assert home.health_asked >= 5
        assert those.heard.ejections == []


async def test_the_ejected_one_is_probed_after_its_own_pause() -> None:
    """Not when the probe that was due while it was well would have come."""
    limits = RoutingLimits(failures=1, first_pause=0.05, longest_pause=0.1, probe_every=600)
    async with farm(limits=limits, watch=True) as those:
        home = those.servers[0]
        home.sick = True
        await those.call()
        assert not those.heard.fit[home.url]
        home.sick = False
        await those.until(home.url, fit=True)


async def test_one_server_that_is_well_makes_the_role_healthy() -> None:
    async with farm() as those:
        those.servers[1].sick = True
        health = await those.role.health()
        assert health.healthy
        assert those.servers[1].url in health.detail
        assert those.servers[0].url not in health.detail


async def test_health_does_not_wait_for_a_server_that_is_left_out() -> None:
    async with farm() as those:
        hung = those.servers[0]
        hung.sick = True
        for _ in range(2):
            await those.call()
        health = await those.role.health()
        assert (health.healthy, hung.health_asked) == (True, 0)
        assert f"{hung.url} is left out" in health.detail


async def test_health_ejects_nobody_and_brings_nobody_back() -> None:
    async with farm(1) as those:
        home = those.servers[0]
        home.sick = True
        for _ in range(5):
            assert not (await those.role.health()).healthy
        assert those.heard.ejections == []
        await those.ejected()
        home.sick = False
        assert (await those.role.health()).healthy
        assert not those.heard.fit[home.url]
