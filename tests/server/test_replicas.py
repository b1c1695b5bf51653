"""Two gateways on one Redis: every embedding is made once, every image known to both, nothing wrong is ever used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from server.cache.lease import YIELDING
from tests.redis_fixture import RedisServer
from tests.server.asking import as_json
from tests.server.conftest import OpenGateway, photo
from tests.server.replicas import EMBEDDING, ID, PATIENT, PHOTO, Replicas, by_id, masks, open_replicas, upload
from tests.waiting import until


@pytest.fixture
async def replicas(open_gateway: OpenGateway, redis: RedisServer) -> AsyncIterator[Replicas]:
    async with open_replicas(open_gateway, redis) as opened:
        yield opened


async def test_one_encode_however_many_ask_at_whichever_replica(replicas: Replicas) -> None:
    before = replicas.encodes
    for gateway in (replicas.a, replicas.b):
        gateway.vision.gate.clear()
    asking = [asyncio.create_task(masks(gateway)) for gateway in (replicas.a, replicas.b) * 4]
    await asyncio.sleep(0.3)
    for gateway in (replicas.a, replicas.b):
        gateway.vision.gate.set()
    answers = await asyncio.gather(*asking)
    assert replicas.encodes == before + 1
    shapes = [[(mask["rle"], mask["bbox"]) for mask in answer] for answer in answers]
    assert all(shape == shapes[0] for shape in shapes), (
        "scores differ in their last bits with the size of a batch"
    )


async def test_an_answer_is_the_same_fresh_and_from_either_level(
    replicas: Replicas, open_gateway: OpenGateway
) -> None:
    fresh = await masks(replicas.a)
    remembered = await masks(replicas.a)
    await replicas.embedding_key()
    shared = await masks(replicas.b)
    async with open_gateway() as alone:
        assert fresh == remembered == shared == await masks(alone)
    assert replicas.a.caches.hits["embedding", "memory"] == 1
    assert replicas.b.caches.hits["embedding", "redis"] >= 1


def flipped(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda value: value[:-7],
        lambda value: value[:3],
        lambda _: b"somebody else's",
        lambda v: v + v,
    ],
    ids=["flipped", "short", "very short", "foreign", "long"],
)
async def test_a_bad_value_is_a_miss_is_counted_and_is_replaced(
    replicas: Replicas, damage: Callable[[bytes], bytes]
) -> None:
    expected = await masks(replicas.a)
    key = await replicas.embedding_key()
    with replicas.store() as store:
        whole = store.get(key)
        assert isinstance(whole, bytes)
        store.set(key, damage(whole))
        before = replicas.encodes
        assert await masks(replicas.b) == expected
        assert replicas.encodes == before + 1
        assert replicas.b.caches.bad_values == {"embedding": 1}
        await until(lambda: store.get(key) == whole)


async def test_another_encoders_features_are_never_read(
    replicas: Replicas, open_gateway: OpenGateway
) -> None:
    expected = await masks(replicas.a)
    key = await replicas.embedding_key()
    async with open_gateway(encoder="another", redis_url=replicas.redis.url, **PATIENT) as other:
        before = other.vision.encodes
        assert await masks(other) == expected
        assert other.vision.encodes == before + 1, "its key is another one"
        with replicas.store() as store:
            theirs = next(found for found in replicas.redis.find(EMBEDDING) if found != key)
            store.set(key, store.get(theirs) or b"")  # under the right key, from the wrong encoder
    await masks(replicas.b)
    assert replicas.b.caches.bad_values == {"embedding": 1}


async def test_a_replica_that_hangs_with_the_lease_delays_the_other_for_some_leases(
    open_gateway: OpenGateway, redis: RedisServer
) -> None:
    settings = {"redis_url": redis.url, "redis_budget_ms": 5000, "embedding_lease_seconds": 0.3}
    async with open_gateway(**settings) as a, open_gateway(**settings) as b:
        a.vision.gate.clear()
        stuck = asyncio.create_task(masks(a))
        await until(lambda: bool(redis.find("*:lease")))
        assert await asyncio.wait_for(masks(b), 60)
        assert not stuck.done()
        a.vision.gate.set()
        assert await stuck == await masks(b)


async def test_a_lease_is_renewed_while_its_replica_encodes(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.cache.shared.RENEWALS", 400)  # every 50 ms
    before = replicas.encodes
    replicas.a.vision.gate.clear()
    asking = [asyncio.create_task(masks(replicas.a))]
    await until(lambda: bool(replicas.redis.find("*:lease")))
    [lease] = replicas.redis.find("*:lease")
    asking.append(asyncio.create_task(masks(replicas.b)))
    with replicas.store() as store:
        assert store.pexpire(lease, 10_000)
        await until(lambda: store.pttl(lease) > 10_000)
    replicas.a.vision.gate.set()
    await asyncio.gather(*asking)
    assert replicas.encodes == before + 1
    await until(lambda: not replicas.redis.find("*:lease"))


@asynccontextmanager
async def queued_upload(replicas: Replicas) -> AsyncIterator[None]:
    """The photo waits for its encode at the first replica, behind another picture's, until the context ends."""
    replicas.a.vision.gate.clear()
    running = asyncio.create_task(masks(replicas.a, photo((90, 60))))
    queue = replicas.a.services.pipeline._embeddings._encoder
    await until(lambda: queue._worker is not None and queue.pending == 0)
    await upload(replicas.a)
    await until(lambda: queue.pending == 1)
    try:
        yield
    finally:
        replicas.a.vision.gate.set()
        await running


@asynccontextmanager
async def running_upload(replicas: Replicas) -> AsyncIterator[None]:
    """The photo is being encoded at the first replica, until the context ends."""
    replicas.a.vision.gate.clear()
    queue = replicas.a.services.pipeline._embeddings._encoder
    await upload(replicas.a)
    await until(lambda: queue._worker is not None and queue.pending == 0)
    try:
        yield
    finally:
        replicas.a.vision.gate.set()


async def test_nobody_in_a_hurry_waits_for_an_upload_that_is_queued_elsewhere(replicas: Replicas) -> None:
    a, b = replicas.a.vision.encodes, replicas.b.vision.encodes
    async with queued_upload(replicas):
        assert await asyncio.wait_for(by_id(replicas.b), PATIENT["embedding_lease_seconds"] / 2)
        await replicas.embedding_key()
    assert await by_id(replicas.a) == await by_id(replicas.b)
    assert (replicas.a.vision.encodes, replicas.b.vision.encodes) == (a + 1, b + 1), "it is made once still"


async def test_an_upload_that_is_waited_for_where_it_is_queued_is_not_taken_elsewhere(
    replicas: Replicas,
) -> None:
    a, b = replicas.a.vision.encodes, replicas.b.vision.encodes
    with replicas.store() as store:

        def yields() -> bool:
            [owner] = store.mget(replicas.redis.find(f"{EMBEDDING}:lease"))
            return isinstance(owner, bytes) and owner.startswith(YIELDING.encode())

        async with queued_upload(replicas):
            assert yields()
            here = asyncio.create_task(by_id(replicas.a))
            await until(lambda: not yields(), 20.0)
            there = asyncio.create_task(by_id(replicas.b))
            await asyncio.sleep(0.3)
    assert await here == await there
    assert (replicas.a.vision.encodes, replicas.b.vision.encodes) == (a + 2, b)


@pytest.mark.parametrize("queued", [True, False])
async def test_an_image_that_is_deleted_elsewhere_during_its_encode_is_not_shared(
    open_gateway: OpenGateway, redis: RedisServer, queued: bool
) -> None:
    async with open_replicas(open_gateway, redis) as replicas:
        before = replicas.a.vision.encodes
        async with queued_upload(replicas) if queued else running_upload(replicas):
            assert redis.find(f"{EMBEDDING}:lease")
            assert (await replicas.b.client.delete(f"/v1/images/{ID}")).status_code == 204
        await until(lambda: not replicas.a.services.sources._encoding)
        assert replicas.a.vision.encodes == before + 1 + queued
    assert redis.find(EMBEDDING) == redis.find(f"{EMBEDDING}:lease") == []


async def test_a_failed_encode_gives_the_lease_back(replicas: Replicas) -> None:
    replicas.a.vision.failing = {"encode"}
    response = await replicas.a.client.post(
        "/v1/segment", files={"image": PHOTO, "request": (None, b'{"prompt": "mug"}', "application/json")}
    )
    assert response.json()["type"] == "urn:r2sm:problem:vision-failed"
    assert await asyncio.wait_for(masks(replicas.b), PATIENT["embedding_lease_seconds"] - 1)


async def test_a_client_that_leaves_gives_the_lease_back(replicas: Replicas) -> None:
    replicas.a.vision.gate.clear()
    leaving = asyncio.create_task(masks(replicas.a))
    await until(lambda: bool(replicas.redis.find("*:lease")))
    leaving.cancel()
    await until(lambda: not replicas.redis.find("*:lease"))
    replicas.a.vision.gate.set()
    assert await masks(replicas.b)


async def test_an_image_that_one_has_taken_is_known_to_the_other(replicas: Replicas) -> None:
    await upload(replicas.a)
    here = await replicas.a.client.get(f"/v1/images/{ID}")
    there = await replicas.b.client.get(f"/v1/images/{ID}")
    assert there.json() == here.json()
    before = replicas.encodes
    await replicas.embedding_key()
    assert await by_id(replicas.b) == await by_id(replicas.a)
    assert replicas.encodes <= before + 1
    assert replicas.b.caches.hits["image", "redis"] == 1
    with replicas.store() as store:
        assert 0 < store.pttl(f"r2sm:{{image:{ID}}}") <= 3600_000


async def test_an_image_that_one_has_deleted_is_gone_from_both(replicas: Replicas) -> None:
    await upload(replicas.a)
    await by_id(replicas.b)
    await replicas.embedding_key()
    assert (await replicas.a.client.delete(f"/v1/images/{ID}")).status_code == 204
    for gateway in (replicas.a, replicas.b):
        await by_id(gateway, status=404)
        assert (await gateway.client.delete(f"/v1/images/{ID}")).status_code == 404
    with replicas.store() as store:
        assert all(store.strlen(key) < 10 for key in replicas.redis.find(f"*{ID}*"))
    await upload(replicas.b)
    await by_id(replicas.a)


async def test_images_expire_everywhere_at_once(open_gateway: OpenGateway, redis: RedisServer) -> None:
    settings = {"redis_url": redis.url, "stored_image_seconds": 4.0, **PATIENT}
    async with open_gateway(**settings) as a, open_gateway(**settings) as b:
        await upload(a)
        assert (await b.client.get(f"/v1/images/{ID}")).status_code == 200
        await until(lambda: not redis.find(f"*image:{ID}*"))
        await by_id(a, status=404)
        await by_id(b, status=404)


@pytest.mark.parametrize(
    "damage", [flipped, lambda v: v[:-7], lambda v: v[:9], lambda _: b"foreign", lambda v: b"x" + v]
)
async def test_a_damaged_image_is_never_served(replicas: Replicas, damage: Callable[[bytes], bytes]) -> None:
    await upload(replicas.a)
    with replicas.store() as store:
        value = store.get(f"r2sm:{{image:{ID}}}")
        assert isinstance(value, bytes)
        store.set(f"r2sm:{{image:{ID}}}", damage(value))
    await by_id(replicas.b, status=404)
    assert replicas.b.caches.bad_values == {"image": 1}
    await by_id(replicas.a)


async def test_a_caller_has_one_rate_however_many_replicas_it_asks(
    open_gateway: OpenGateway, redis: RedisServer
) -> None:
    settings = {"redis_url": redis.url, "redis_prefix": "site:", "rate_limit": "3/hour", **PATIENT}
    async with open_gateway(**settings) as a, open_gateway(**settings) as b:
        asked = [await a.client.post("/v1/segment", **as_json()) for _ in range(2)]
        asked += [await b.client.post("/v1/segment", **as_json()) for _ in range(2)]
        assert [response.status_code for response in asked] == [200, 200, 200, 429]
        assert (await a.client.post("/v1/segment", **as_json())).status_code == 429
    assert redis.find("site:limits*")
    assert redis.find() == redis.find("site:*")


async def test_ids_that_are_none_are_not_looked_for_in_redis(replicas: Replicas) -> None:
    with replicas.store() as store:
        store.set("r2sm:{image:secret}", "value")
        calls = store.info("commandstats").get("cmdstat_getrange", {"calls": 0})["calls"]
        response = await replicas.a.client.get("/v1/images/secret")
        assert response.status_code == 404
        assert store.info("commandstats").get("cmdstat_getrange", {"calls": 0})["calls"] == calls
