"""RedisLevel on a real Redis that is stopped, started again, filled, slowed down and damaged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from engines.cache.observer import CountingObserver
from engines.cache.shared import Found, Leased, claim_or_wait
from server.cache.lease import forgotten_key, lease_key, value_key
from server.cache.redis_level import RedisLevel, RedisLimits
from tests.redis_fixture import RedisServer, slow_path
from tests.waiting import until

LIMITS = RedisLimits(budget=2.0, max_value=1 << 20, lease_seconds=20)
"""Patient, because the cores may be busy; tests of slowness are not."""

VALUE, FORGOTTEN = (where("t:", "a").encode() for where in (value_key, forgotten_key))


class Opened:
    """A level, what it counts, and the clock of its breakers."""

    def __init__(self, url: str, limits: RedisLimits) -> None:
        self.now = 100.0
        self.counts = CountingObserver()
        self.level = RedisLevel(url, "t:", limits, self.counts, lambda: self.now)


@asynccontextmanager
async def opened(url: str, limits: RedisLimits = LIMITS) -> AsyncIterator[Opened]:
    case = Opened(url, limits)
    try:
        yield case
    finally:
        await case.level.aclose()


@pytest.fixture
async def case(redis: RedisServer) -> AsyncIterator[Opened]:
    async with opened(redis.url) as case:
        yield case


async def test_a_value_is_kept_for_its_time_and_discarded(case: Opened, redis: RedisServer) -> None:
    assert await case.level.put("a", b"value", seconds=50)
    assert await case.level.read("a", "image") == b"value"
    assert await case.level.first_bytes("a", 2, "image") == b"va"
    with contextlib.closing(redis.client) as client:
        assert 40_000 < client.pttl(value_key("t:", "a")) <= 50_000
    await case.level.discard("a")
    assert await case.level.read("a", "image") is None
    assert await case.level.trouble() == ""


async def test_one_of_two_replicas_gets_the_lease_and_the_other_the_value(
    case: Opened, redis: RedisServer
) -> None:
    async with opened(redis.url) as other:
        lease = await case.level.claim("a")
        assert isinstance(lease, Leased)
        assert await other.level.claim("a") == "busy"
        waiting = asyncio.create_task(claim_or_wait(other.level, "a"))
        case.level.publish("a", lambda: b"made", lease.token)
        assert await waiting == Found(b"made")
    await until(lambda: redis.find() == [VALUE])


async def test_what_is_forgotten_is_not_put_by_whoever_was_making_it(
    case: Opened, redis: RedisServer
) -> None:
    async with opened(redis.url) as other:
        lease = await case.level.claim("a")
        assert isinstance(lease, Leased)
        going_on = threading.Event()
        case.level.publish("a", lambda: b"made" if going_on.wait(30) else b"", lease.token)
        forgetting = asyncio.create_task(case.level.forget("a"))
        await asyncio.sleep(0)
        going_on.set()
        await forgetting
        assert redis.find() == [FORGOTTEN], "it was about to be put by the same replica"

        lease = await other.level.claim("a")
        assert isinstance(lease, Leased)
        await case.level.forget("a")
        other.level.publish("a", lambda: b"made", lease.token)
        await other.level.aclose()
    assert redis.find() == [FORGOTTEN], "another replica was making it"


async def test_a_lease_that_is_given_up_goes_to_the_next(case: Opened, redis: RedisServer) -> None:
    async with opened(redis.url) as other:
        lease = await case.level.claim("a")
        assert isinstance(lease, Leased)
        waiting = asyncio.create_task(claim_or_wait(other.level, "a"))
        case.level.give_up("a", lease.token)
        assert isinstance(await waiting, Leased)


async def test_a_lease_that_ran_out_is_not_taken_from_the_next_owner(
    case: Opened, redis: RedisServer
) -> None:
    old = await case.level.claim("a")
    assert isinstance(old, Leased)
    with contextlib.closing(redis.client) as client:
        client.delete(lease_key("t:", "a"))  # as if its time had passed
        new = await case.level.claim("a")
        assert isinstance(new, Leased)
        case.level.give_up("a", old.token)
        await case.level.aclose()
        assert client.get(lease_key("t:", "a")) == new.token.encode()


async def test_a_lease_is_renewed_for_its_owner_only(case: Opened, redis: RedisServer) -> None:
    lease, where = await case.level.claim("a"), lease_key("t:", "a")
    assert isinstance(lease, Leased)
    with contextlib.closing(redis.client) as client:
        client.pexpire(where, 5000)
        assert not await case.level.renew("a", "another token")
        assert client.pttl(where) <= 5000
        assert await case.level.renew("a", lease.token)
        assert 10_000 < client.pttl(where) <= LIMITS.lease_seconds * 1000
        client.delete(where)
        assert not await case.level.renew("a", lease.token)
        assert client.dbsize() == 0, "a lease that ran out is not brought back"


async def test_a_lease_that_yields_goes_to_one_who_does_not(case: Opened, redis: RedisServer) -> None:
    old = await case.level.claim("a", yielding=True)
    assert isinstance(old, Leased)
    assert await case.level.renew("a", old.token)
    assert await case.level.claim("a", yielding=True) == "busy"
    new = await case.level.claim("a")
    assert isinstance(new, Leased)
    assert (old.yielding, new.yielding) == (True, False)
    assert not await case.level.renew("a", old.token)
    assert not await case.level.insist("a", old.token)
    case.level.give_up("a", old.token)
    assert await case.level.claim("a") == "busy", "it is the new owner's"


async def test_a_lease_yields_until_its_owner_insists(case: Opened, redis: RedisServer) -> None:
    lease, where = await case.level.claim("a", yielding=True), lease_key("t:", "a")
    assert isinstance(lease, Leased)
    with contextlib.closing(redis.client) as client:
        client.pexpire(where, 5000)
        assert await case.level.insist("a", lease.token)
        assert 10_000 < client.pttl(where) <= LIMITS.lease_seconds * 1000
    assert await case.level.claim("a") == "busy"
    await case.level.forget("a")
    assert not await case.level.insist("a", lease.token), "what was forgotten is not made for others"
    assert redis.find() == [FORGOTTEN]


async def test_who_has_lost_a_lease_gets_it_again_unless_the_value_was_forgotten(
    case: Opened, redis: RedisServer
) -> None:
    lease = await case.level.claim("a", again=True)
    assert isinstance(lease, Leased)
    with contextlib.closing(redis.client) as client:
        client.delete(lease_key("t:", "a"))  # as if its time had passed
        assert isinstance(await case.level.claim("a", again=True), Leased)
        await case.level.forget("a")
        assert await case.level.claim("a", again=True) == "unavailable"
        assert 3000_000 < client.pttl(FORGOTTEN) <= LIMITS.value_seconds * 1000
    assert isinstance(await case.level.claim("a"), Leased), "who comes later knows nothing of it"
    assert await case.level.claim("a", again=True) == "busy", "that one is waited for"


async def test_a_full_redis_forgets(case: Opened, redis: RedisServer) -> None:
    await case.level.put("a", b"value")
    with contextlib.closing(redis.client) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        await case.level.forget("a")
        assert VALUE not in redis.find()


@pytest.mark.parametrize("insisted", [False, True])
async def test_a_lease_that_yields_is_given_back(case: Opened, redis: RedisServer, insisted: bool) -> None:
    lease = await case.level.claim("a", yielding=True)
    assert isinstance(lease, Leased)
    assert not insisted or await case.level.insist("a", lease.token)
    case.level.give_up("a", lease.token)
    await until(lambda: redis.find() == [])


async def test_a_lease_outlasts_a_redis_that_is_away_for_a_moment(case: Opened, redis: RedisServer) -> None:
    lease = await case.level.claim("a")
    assert isinstance(lease, Leased)
    redis.stop()
    assert await case.level.renew("a", lease.token), "it may still be held: the next renewal will tell"


async def test_a_replica_that_dies_with_the_lease_is_waited_for_no_longer_than_that(
    redis: RedisServer,
) -> None:
    short = replace(LIMITS, lease_seconds=0.2)
    async with opened(redis.url, short) as dead, opened(redis.url, short) as other:
        assert isinstance(await dead.level.claim("a"), Leased)
        claim = await asyncio.wait_for(claim_or_wait(other.level, "a"), 30)
        assert isinstance(claim, Leased) or claim == "unavailable"


async def test_one_that_leaves_while_it_claims_leaves_no_lease(redis: RedisServer) -> None:
    async with slow_path(redis) as path, opened(path.url, replace(LIMITS, budget=20.0)) as case:
        lease = await case.level.claim("a")
        assert isinstance(lease, Leased)
        case.level.give_up("a", lease.token)
        await until(lambda: redis.find() == [])
        path.delay = 0.5
        claiming = asyncio.create_task(case.level.claim("a"))
        await until(lambda: redis.find() != [])
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        await until(lambda: redis.find() == [])


async def test_a_value_that_is_too_long_is_not_put_and_not_read(case: Opened, redis: RedisServer) -> None:
    too_long = bytes(LIMITS.max_value + 1)
    assert not await case.level.put("a", too_long)
    with contextlib.closing(redis.client) as client:
        assert client.dbsize() == 0
        client.set(value_key("t:", "a"), too_long)
    assert await case.level.read("a", "image") is None
    assert await case.level.claim("a") == "unavailable"
    assert case.counts.bad_values == {"image": 1, "embedding": 1}


async def test_a_value_of_another_kind_is_a_bad_value_and_no_fault_of_redis(
    case: Opened, redis: RedisServer
) -> None:
    with contextlib.closing(redis.client) as client:
        client.rpush(value_key("t:", "a"), "foreign")
    for _ in range(LIMITS.failures):
        assert await case.level.claim("a") == "unavailable"
    assert case.counts.bad_values["embedding"] == LIMITS.failures
    assert case.counts.troubles == {}
    assert await case.level.put("a", b"mine")
    assert await case.level.read("a", "embedding") == b"mine"


async def test_redis_gone_and_back(case: Opened, redis: RedisServer) -> None:
    assert await case.level.put("a", b"value")
    redis.stop()
    for _ in range(10):
        assert await case.level.claim("a") == "unavailable"
        assert await case.level.read("a", "image") is None
    assert case.counts.troubles == {"connection": LIMITS.failures}, "after that nothing is asked any more"
    assert case.counts.breakers == {"all": "open", "writes": "closed"}
    assert "cannot be reached" in await case.level.trouble()
    redis.start()
    assert "cannot be reached" in await case.level.trouble(), "the pause is not over"
    case.now += LIMITS.pause
    assert await case.level.trouble() == ""
    assert case.counts.breakers == {"all": "closed", "writes": "closed"}
    assert isinstance(await case.level.claim("a"), Leased), "scripts are loaded again"


async def test_a_full_redis_is_read_but_not_written(case: Opened, redis: RedisServer) -> None:
    await case.level.put("a", b"value")
    with contextlib.closing(redis.client) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        assert await case.level.claim("b") == "unavailable"
        assert not await case.level.put("b", b"value")
        assert await case.level.claim("a") == Found(b"value")
        assert case.counts.troubles == {"full": 1}, "it is not asked to write again"
        assert case.counts.breakers == {"all": "closed", "writes": "open"}
        assert "memory is full" in await case.level.trouble()
        client.config_set("maxmemory", 0)
    case.now += LIMITS.pause
    assert await case.level.trouble() == ""
    assert await case.level.put("b", b"value")
    assert case.counts.breakers["writes"] == "closed"


async def test_a_read_only_redis_is_read(case: Opened, redis: RedisServer) -> None:
    await case.level.put("a", b"value")
    with contextlib.closing(redis.client) as client:
        try:
            client.replicaof("127.0.0.1", 1)
            assert not await case.level.put("b", b"value")
            assert case.counts.breakers == {"all": "closed", "writes": "open"}
            assert "refuses writes" in await case.level.trouble()
        finally:
            client.replicaof("NO", "ONE")


async def test_a_slow_redis_is_not_waited_for_and_gives_nobody_anothers_answer(redis: RedisServer) -> None:
    hasty = replace(LIMITS, budget=0.15)
    async with slow_path(redis) as path, opened(path.url, hasty) as case:
        for key in "abc":
            while not await case.level.put(key, key.encode() * 3):
                case.now += LIMITS.pause
        path.delay = 1.0
        late = await asyncio.gather(*(case.level.read(key, "image") for key in "abc"))
        assert late == [None] * 3
        assert case.counts.breakers["all"] == "open"
        assert await case.level.claim("a") == "unavailable"
        path.delay = 0.0
        async with asyncio.timeout(30):
            for key in "abc":
                while (value := await case.level.read(key, "image")) is None:
                    case.now += LIMITS.pause
                assert value == key.encode() * 3


async def test_a_redis_that_hangs_holds_nobody_up(redis: RedisServer) -> None:
    async with opened(redis.url, replace(LIMITS, budget=0.1)) as case:
        with redis.frozen():
            for _ in range(10):
                assert await case.level.claim("a") == "unavailable"
                assert not await case.level.put("a", b"value")
            assert "no answer within 100 ms" in await case.level.trouble()
        assert case.counts.troubles == {"timeout": LIMITS.failures}
        async with asyncio.timeout(30):
            while await case.level.trouble():
                case.now += LIMITS.pause
        assert case.counts.breakers["all"] == "closed"


async def test_many_at_once_share_few_connections(redis: RedisServer) -> None:
    few = replace(LIMITS, connections=2, budget=20.0)
    async with opened(redis.url, few) as case:
        await asyncio.gather(*(case.level.put(str(i), b"value") for i in range(100)))
        assert case.counts.troubles == {}
        with contextlib.closing(redis.client) as client:
            assert client.dbsize() == 100
            assert len(client.client_list()) <= few.connections + 1


async def test_what_is_not_redis_and_a_wrong_password(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    caplog.set_level(logging.DEBUG)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with opened(f"redis://:hush@127.0.0.1:{port}/0") as case:
            assert await case.level.read("a", "image") is None
            assert case.counts.troubles.total() == 1
            assert "hush" not in await case.level.trouble()
    with contextlib.closing(redis.client) as client:
        client.config_set("requirepass", "right")
        try:
            async with opened(redis.url.replace("//", "//:wrong-hush@")) as case:
                assert await case.level.claim("a") == "unavailable"
                assert await case.level.trouble() != ""
        finally:
            client.auth("right")
            client.config_set("requirepass", "")
    assert "hush" not in caplog.text
