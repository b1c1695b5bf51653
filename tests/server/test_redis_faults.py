"""Redis stops, is full, slow or never there: every request is answered, and the gateway says that it is degraded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from server.settings import Settings
from tests.redis_fixture import RedisServer, slow_path
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.server.replicas import ID, Replicas, by_id, masks, open_replicas, ready, until_ready, upload
from tests.waiting import until


@pytest.fixture
async def replicas(open_gateway: OpenGateway, redis: RedisServer) -> AsyncIterator[Replicas]:
    async with open_replicas(open_gateway, redis) as opened:
        yield opened


async def test_redis_stops_under_load_and_comes_back(replicas: Replicas) -> None:
    expected = await masks(replicas.a)
    await upload(replicas.a)
    pictures = [photo((100 + number, 80)) for number in range(6)]
    load = [asyncio.create_task(masks(gateway, p)) for p in pictures for gateway in (replicas.a, replicas.b)]
    await asyncio.sleep(0.02)
    replicas.redis.stop()
    await asyncio.gather(*load)
    assert await masks(replicas.b) == expected
    assert await by_id(replicas.a) == expected, "its own memory has it"
    await by_id(replicas.b, status=404)
    status, reasons = await ready(replicas.a)
    assert status == "degraded"
    assert "Redis is not used" in reasons
    replicas.redis.start()
    for gateway in (replicas.a, replicas.b):
        await until_ready(gateway)
    await masks(replicas.a, photo((77, 80)))
    before = replicas.b.vision.encodes
    await until(lambda: bool(replicas.redis.find("*{embedding*}")))
    await masks(replicas.b, photo((77, 80)))
    assert replicas.b.vision.encodes == before


async def test_a_full_redis_does_no_harm(replicas: Replicas) -> None:
    expected = await masks(replicas.a)
    await replicas.embedding_key()
    with replicas.store() as store:
        store.config_set("maxmemory", 1)
        for number in range(3):
            await masks(replicas.a, photo((90 + number, 80)))
        for _ in range(2):  # what was deleted can be brought back
            await upload(replicas.a)
            await by_id(replicas.a)
            assert (await replicas.a.client.delete(f"/v1/images/{ID}")).status_code == 503
            await by_id(replicas.a, status=404)
        assert await masks(replicas.b) == expected
        status, reasons = await ready(replicas.a)
        assert (status, "memory is full" in reasons) == ("degraded", True)
        assert replicas.b.caches.hits["embedding", "redis"] >= 1, "what it has is still used"
        store.config_set("maxmemory", 0)
    await until_ready(replicas.a)


@asynccontextmanager
async def slow_gateway(redis: RedisServer, open_gateway: OpenGateway) -> AsyncIterator[Gateway]:
    async with slow_path(redis) as path:
        path.delay = 1.0
        async with open_gateway(redis_url=path.url) as gateway:
            yield gateway


async def test_an_image_that_cannot_be_forgotten_everywhere_is_no_204(replicas: Replicas) -> None:
    await upload(replicas.a)
    replicas.redis.stop()
    response = await replicas.a.client.delete(f"/v1/images/{ID}")
    assert (response.status_code, response.json()["type"]) == (503, "urn:r2sm:problem:image-not-forgotten")
    assert int(response.headers["retry-after"]) > 0
    for gateway in (
        replicas.a,
        replicas.b,
    ):  # who asks again, or another replica, is not told that it is gone
        assert (await gateway.client.delete(f"/v1/images/{ID}")).status_code == 503
    assert (await replicas.a.client.delete("/v1/images/nonsense")).status_code == 404
    replicas.redis.start()
    await until_ready(replicas.a)
    await upload(replicas.a)
    await until_ready(replicas.b)
    for status in (204, 404):
        assert (await replicas.b.client.delete(f"/v1/images/{ID}")).status_code == status
    await by_id(replicas.a, status=404)


async def test_a_delete_that_failed_is_made_up_for_when_redis_comes_back_empty(replicas: Replicas) -> None:
    await upload(replicas.a)
    await by_id(replicas.b)
    replicas.redis.stop()
    assert (await replicas.a.client.delete(f"/v1/images/{ID}")).status_code == 503
    replicas.redis.start()
    for gateway in (replicas.a, replicas.b):
        await until_ready(gateway)
    await by_id(replicas.b)
    for status in (204, 404):
        assert (await replicas.a.client.delete(f"/v1/images/{ID}")).status_code == status
    await by_id(replicas.b, status=404)


async def test_an_image_is_not_forgotten_while_redis_takes_no_writes(replicas: Replicas) -> None:
    await upload(replicas.a)
    await by_id(replicas.b)
    with replicas.store() as store:
        store.config_set("maxmemory", 1)
        response = await replicas.a.client.delete(f"/v1/images/{ID}")
        assert (response.status_code, response.json()["type"]) == (
            503,
            "urn:r2sm:problem:image-not-forgotten",
        )
        await by_id(replicas.b)
        store.config_set("maxmemory", 0)


async def test_what_cannot_be_forgotten_everywhere_is_forgotten_here(replicas: Replicas) -> None:
    await upload(replicas.a)
    await masks(replicas.a)
    before = replicas.a.vision.encodes
    await masks(replicas.a)
    assert replicas.a.vision.encodes == before, "it is remembered"
    replicas.redis.stop()
    assert (await replicas.a.client.delete(f"/v1/images/{ID}")).status_code == 503
    await masks(replicas.a)
    assert replicas.a.vision.encodes == before + 1
    replicas.redis.start()


async def test_a_slow_redis_is_given_up_soon(redis: RedisServer, open_gateway: OpenGateway) -> None:
    async with slow_gateway(redis, open_gateway) as gateway, open_gateway() as alone:
        assert await masks(gateway) == await masks(alone)
        for number in range(4):
            await masks(gateway, photo((90 + number, 80)))
        status, reasons = await ready(gateway)
        assert (status, "no answer within 50 ms" in reasons) == ("degraded", True)
        assert gateway.caches.troubles["timeout"] >= 3
        assert gateway.caches.hits["embedding", "redis"] == 0


async def test_a_gateway_starts_without_redis(open_gateway: OpenGateway, unused_tcp_port: int) -> None:
    async with open_gateway(redis_url=f"redis://:hush@127.0.0.1:{unused_tcp_port}/0") as gateway:
        assert await masks(gateway)
        status, reasons = await ready(gateway)
        assert status == "degraded"
        assert "hush" not in reasons


def test_the_password_is_in_no_words_of_the_settings() -> None:
    settings = Settings.model_validate({"redis_url": "redis://:hush@127.0.0.1:6379/0"})
    assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()
