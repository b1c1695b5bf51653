"""Two gateways on one real Redis, what is asked of them, and what a test looks at."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis import Redis

from server.images import digest_of
from tests.redis_fixture import RedisServer
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.waiting import until

PHOTO = photo()
ID = digest_of(PHOTO)
EMBEDDING = f"*{{embedding:*{ID}}}"
PATIENT = {"redis_budget_ms": 5000, "embedding_lease_seconds": 20}
"""Busy cores must not look like a slow Redis."""
Masks = list[dict[str, object]]


@dataclass
class Replicas:
    """Two gateways, warm."""

    a: Gateway
    b: Gateway
    redis: RedisServer

    @property
    def encodes(self) -> int:
        return self.a.vision.encodes + self.b.vision.encodes

    @contextlib.contextmanager
    def store(self) -> Iterator[Redis]:
        with contextlib.closing(self.redis.client) as client:
            yield client

    async def embedding_key(self) -> bytes:
        """Where the photo's embedding is, once it has been published."""
        await until(lambda: bool(self.redis.find(EMBEDDING)))
        return self.redis.find(EMBEDDING)[0]


async def masks(gateway: Gateway, image: bytes = PHOTO) -> Masks:
    response = await gateway.client.post(
        "/v1/segment", files={"image": image, "request": (None, b'{"prompt": "mug"}', "application/json")}
    )
    assert response.status_code == 200, response.text
    found: Masks = response.json()["masks"]
    assert found
    return found


async def by_id(gateway: Gateway, status: int = 200) -> Masks:
    response = await gateway.client.post("/v1/segment", json={"prompt": "mug", "image": {"id": ID}})
    assert response.status_code == status, response.text
    return list(response.json().get("masks", []))


async def upload(gateway: Gateway) -> None:
    response = await gateway.client.post("/v1/images", content=PHOTO, headers={"content-type": "image/png"})
    assert response.status_code == 201, response.text


async def ready(gateway: Gateway) -> tuple[str, str]:
    """The status, and why it is not of the best."""
    response = await gateway.client.get("/readyz")
    assert response.status_code == 200, response.text
    return response.json()["status"], str(response.json().get("reasons", ""))


async def until_ready(gateway: Gateway) -> None:
    async def answer() -> bool:
        return (await ready(gateway))[0] == "ready"

    await until(answer)


@asynccontextmanager
async def open_replicas(open_gateway: OpenGateway, redis: RedisServer) -> AsyncIterator[Replicas]:
    async with (
        open_gateway(redis_url=redis.url, **PATIENT) as a,
        open_gateway(redis_url=redis.url, **PATIENT) as b,
    ):
        yield Replicas(a, b, redis)
