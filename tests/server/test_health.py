"""Liveness, readiness, the model list, unknown paths and the OpenAPI document."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from engines.errors import VisionFailed
from engines.mllm.results import RoleHealth
from server.readiness import Readiness
from server.schemas import SegmentBody
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.stand_ins import ScriptedMllm

FORMS = {"application/json", "text/event-stream", "image/png", "application/vnd.coco.results+json"}


class HangingHealth(ScriptedMllm):
    """Says nothing of its health while it `hangs`, and when it has been `asked` and `left`."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    async def health(self) -> tuple[RoleHealth, RoleHealth]:
        if not self.hangs:
            return await super().health()
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()
        raise AssertionError("nobody sets that event")


async def test_live_and_ready(gateway: Gateway) -> None:
    assert (await gateway.client.get("/livez")).json() == {"status": "live"}
    ready = await gateway.client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert {"reason", "decide", "concentrate"} <= set(gateway.mllm.calls), (
        "a request has passed through everything"
    )
    assert gateway.vision.encodes == 1


async def missing(gateway: Gateway) -> set[str]:
    response = await gateway.client.get("/readyz")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) > 0
    return {fault["field"] for fault in response.json()["errors"]}


async def test_not_ready_before_the_language_model_is(open_gateway: OpenGateway) -> None:
    async with open_gateway(ScriptedMllm(healthy=False), wait=False) as gateway:
        assert (await gateway.client.get("/livez")).status_code == 200
        assert await missing(gateway) >= {"mllm.reason", "warm_up"}
        gateway.mllm.healthy = True
        async with asyncio.timeout(60):
            while (await gateway.client.get("/readyz")).status_code != 200:  # noqa: ASYNC110  # as an outsider
                await asyncio.sleep(0.01)


async def test_not_ready_until_a_request_has_passed(open_gateway: OpenGateway) -> None:
    async with open_gateway(ScriptedMllm(failing={"concentrate"}), wait=False) as gateway:
        while gateway.mllm.calls.count("concentrate") < 4:  # noqa: ASYNC110  # it goes on trying
            await asyncio.sleep(0.01)
        assert await missing(gateway) == {"warm_up"}


async def test_not_ready_while_a_server_is_down(gateway: Gateway) -> None:
    gateway.mllm.healthy = False
    assert await missing(gateway) == {"mllm.reason"}
    gateway.mllm.healthy = True
    assert (await gateway.client.get("/readyz")).status_code == 200


async def test_which_server_is_down_and_why_is_for_the_log_alone(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.mllm.healthy = False
    with caplog.at_level("INFO", "server.readiness"):
        for _ in range(3):
            assert "as the test wants it" not in (await gateway.client.get("/readyz")).text
        gateway.mllm.healthy = True
        await gateway.client.get("/readyz")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "mllm.reason is not ready: down, as the test wants it"),
        ("INFO", "mllm.reason is ready"),
    ]


async def test_who_asks_at_once_or_soon_after_is_answered_by_one_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0

    async def health() -> tuple[RoleHealth, ...]:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.01)
        return (RoleHealth("reason", True),)

    async def passes() -> None: ...

    monkeypatch.setattr("server.readiness.KEPT_SECONDS", 600.0)
    readiness = Readiness(passes, passes, health)
    first = asyncio.create_task(readiness.checks())
    answers = asyncio.gather(*(readiness.checks() for _ in range(100)))
    await asyncio.sleep(0)
    first.cancel()  # who leaves takes nothing from the others
    assert len(await answers) == 100
    for _ in range(1000):
        await readiness.checks()
    assert looks == 1
    monkeypatch.setattr("server.readiness.KEPT_SECONDS", 0.0)
    await readiness.checks()
    assert looks == 2


async def test_no_look_outlasts_the_services(open_gateway: OpenGateway) -> None:
    mllm = HangingHealth()
    async with open_gateway(mllm) as gateway:
        mllm.hangs = True
        asking = asyncio.create_task(gateway.services.readiness.checks())
        await mllm.asked.wait()
        asking.cancel()  # who asked has left
        await asyncio.gather(asking, return_exceptions=True)
        assert not mllm.left.is_set()
    assert mllm.left.is_set()


async def test_the_warm_ups_end_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.readiness.KEPT_SECONDS", 600.0)
    up = False

    async def health() -> tuple[RoleHealth, ...]:
        return (RoleHealth("reason", up),)

    async def passes() -> None: ...

    readiness = Readiness(passes, passes, health)
    assert not any(check.ready for check in await readiness.checks())
    up = True
    await readiness.warm_up()
    assert all(check.ready for check in await readiness.checks())


async def test_whatever_a_warm_up_ends_in_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.readiness.RETRY_SECONDS", 0.0)
    failures: list[Exception] = [MemoryError(), RuntimeError("allocation"), VisionFailed("cold")]

    async def fails_at_first() -> None:
        if failures:
            raise failures.pop()

    async def health() -> tuple[RoleHealth, ...]:
        return (RoleHealth("reason", True),)

    readiness = Readiness(fails_at_first, fails_at_first, health)
    await readiness.warm_up()
    assert all(check.ready for check in await readiness.checks())


async def test_models(gateway: Gateway) -> None:
    listing = (await gateway.client.get("/v1/models")).json()
    [model] = listing["data"]
    assert listing["object"] == "list"
    assert (model["id"], model["grounder"], model["vision"]["runtime"]) == ("tiny", "coprs", "torch")
    assert model["mask_types"] == ["auto", "modal", "amodal", "both"]
    assert model["reasoning_tokens"] == {"full": 160, "brief": 16}


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [("GET", "/nowhere", 404, "not-found"), ("GET", "/v1/segment", 405, "method-not-allowed")],
)
async def test_unknown_paths_are_problems_too(
    gateway: Gateway, method: str, path: str, status: int, slug: str
) -> None:
    response = await gateway.client.request(method, path)
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, response.json()["type"]) == (status, f"urn:r2sm:problem:{slug}")


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


async def test_the_openapi_document_is_whole(gateway: Gateway) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert references(document) <= {f"#/components/schemas/{name}" for name in schemas}
    segment = document["paths"]["/v1/segment"]["post"]
    assert set(segment["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert set(segment["responses"]) == {
        "200",
        "400",
        "401",
        "404",
        "406",
        "408",
        "413",
        "415",
        "422",
        "429",
        "500",
        "503",
        "504",
    }
    for status, response in segment["responses"].items():
        kinds = FORMS if status == "200" else {"application/problem+json"}
        assert set(response["content"]) == kinds
    assert set(schemas["SegmentBody"]["properties"]) == set(SegmentBody.model_fields)
    assert schemas["SegmentBody"]["additionalProperties"] is False


async def test_a_request_made_from_the_documents_example_works(gateway: Gateway) -> None:
    body = SegmentBody.model_validate(
        {"prompt": "mug", "image": {"data": base64.b64encode(photo()).decode()}, "include": frozenset()}
    )
    response = await gateway.client.post("/v1/segment", json=body.model_dump(mode="json"))
    assert response.status_code == 200
