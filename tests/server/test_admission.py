"""Admission over HTTP and WebSocket: keys, rates, priorities, before a body is read."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from engines.deadline import Deadline
from engines.events import Event
from engines.pipeline import LoadImage
from engines.request import SegmentRequest
from server.admission import KeysInvalid
from server.admission.keys import new_key
from server.client import SegmentClient
from server.settings import Settings
from tests.server.asgi import connect
from tests.server.asking import PHOTO, as_json
from tests.server.command_line import r2sm
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.server.live import listening

ANN, ANNS = new_key("ann")
BOB, BOBS = new_key("bob", "2/hour")
IN_JSON = as_json()["json"]


@pytest.fixture
async def keyed(open_gateway: OpenGateway) -> AsyncIterator[Gateway]:
    async with open_gateway(api_keys=f"{ANNS} {BOBS}") as gateway:
        yield gateway


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def test_every_route_below_v1_wants_a_key(keyed: Gateway) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(True)
        yield b"{}"

    routes = [route for route in keyed.app.routes if isinstance(route, APIRoute)]
    asked = [(method, route.path) for route in routes for method in route.methods]
    closed = [(method, path) for method, path in asked if path.startswith("/v1/")]
    assert len(closed) >= 7
    for method, path in closed:
        request = keyed.client.build_request(method, path.replace("{id}", "sha256:0"), content=body())
        for headers in ({}, bearer("nobody"), {"X-API-Key": "nobody"}):
            request.headers.update(headers)
            response = await keyed.client.send(request)
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"].startswith("Bearer")
    assert not [path for _, path in asked if not path.startswith("/v1/") and path not in OPEN]
    assert len(read) <= 3 * len(closed), "httpx hands over one chunk before anybody reads"
    assert keyed.services.admission.present == 0


PAGES = {"/", "/docs", "/samples", "/samples/{name}.png"}
OPEN = {"/livez", "/readyz", "/metrics", "/metrics/vllm/{role}", *PAGES}


async def test_health_and_the_documents_are_open(keyed: Gateway) -> None:
    for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
        assert (await keyed.client.get(path)).status_code == 200


@pytest.mark.parametrize("headers", [bearer(ANN), {"X-API-Key": ANN}])
async def test_a_key_opens_everything(keyed: Gateway, headers: dict[str, str]) -> None:
    assert (await keyed.client.post("/v1/segment", headers=headers, **as_json())).status_code == 200
    assert (await keyed.client.get("/v1/models", headers=headers)).status_code == 200


async def refused(gateway: Gateway, status: int, slug: str, headers: dict[str, str]) -> httpx.Response:
    response = await gateway.client.post("/v1/segment", headers=headers, **as_json())
    assert response.status_code == status
    assert response.json()["type"] == f"urn:r2sm:problem:{slug}"
    return response


async def test_too_many_requests_are_429_and_say_until_when(keyed: Gateway) -> None:
    for _ in range(2):
        assert (await keyed.client.post("/v1/segment", headers=bearer(BOB), **as_json())).status_code == 200
    response = await refused(keyed, 429, "rate-limited", bearer(BOB))
    assert 1 <= int(response.headers["retry-after"]) <= 3600
    assert (await keyed.client.get("/v1/models", headers=bearer(BOB))).status_code == 200, "costs nothing"
    assert (await keyed.client.post("/v1/segment", headers=bearer(ANN), **as_json())).status_code == 200
    assert keyed.services.admission.present == 0


async def test_a_batch_that_no_limit_will_ever_allow_is_told_so_at_once(open_gateway: OpenGateway) -> None:
    image, mug = {"data": base64.b64encode(PHOTO).decode()}, {"prompt": "mug"}
    async with open_gateway(rate_limit="4/hour") as gateway:
        large = await gateway.client.post("/v1/segment/batch", json={"image": image, "requests": [mug] * 5})
        assert (large.status_code, large.json()["errors"][0]["field"]) == (422, "requests")
        fits = await gateway.client.post("/v1/segment/batch", json={"image": image, "requests": [mug] * 3})
        assert fits.status_code == 200, "what was refused for ever cost no more than its own request"


async def test_without_keys_the_address_is_counted(open_gateway: OpenGateway) -> None:
    async with open_gateway(rate_limit="1/hour") as gateway:
        assert (await gateway.client.post("/v1/segment", **as_json())).status_code == 200
        await refused(gateway, 429, "rate-limited", bearer("makes no difference"))


async def test_a_priority_that_is_none_is_named(keyed: Gateway) -> None:
    response = await refused(keyed, 422, "invalid-request", {**bearer(ANN), "X-R2SM-Priority": "now"})
    assert response.json()["errors"][0]["field"] == "X-R2SM-Priority"


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_the_priority_reaches_the_pipeline(
    open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    async with open_gateway() as gateway:
        asked, pipeline = [], gateway.services.pipeline
        segment = pipeline.segment

        def noted(
            request: SegmentRequest, load: LoadImage, deadline: Deadline
        ) -> AsyncGenerator[Event, None]:
            asked.append(request.patient)
            return segment(request, load, deadline)

        monkeypatch.setattr(pipeline, "segment", noted)
        for priority in ("interactive", "batch"):
            headers = {"X-R2SM-Priority": priority, "Accept": accept}
            response = await gateway.client.post("/v1/segment", headers=headers, **as_json())
            assert response.status_code == 200
            assert response.headers["content-type"].startswith(accept)
    assert asked == [False, True]


async def test_new_keys_and_limits_need_no_restart(keyed: Gateway, tmp_path: Path) -> None:
    carl, carls = new_key("carl")
    (tmp_path / "keys").write_text(f"{BOBS}\n{carls}\n")
    keyed.services.reload(Settings(api_keys_file=tmp_path / "keys", rate_limit="1/hour"))
    await refused(keyed, 401, "api-key-unknown", bearer(ANN))
    assert (await keyed.client.post("/v1/segment", headers=bearer(carl), **as_json())).status_code == 200
    await refused(keyed, 429, "rate-limited", bearer(carl))


async def test_new_bounds_need_no_restart(open_gateway: OpenGateway) -> None:
    async with open_gateway() as gateway:
        gateway.mllm.hanging = {"reason"}
        first = asyncio.create_task(gateway.client.post("/v1/segment", **as_json()))
        await gateway.mllm.reached.wait()
        gateway.services.reload(Settings(max_in_flight=1, max_queued=0))
        await refused(gateway, 503, "overloaded", {})
        gateway.services.reload(Settings(max_in_flight=2, max_queued=0))
        gateway.mllm.hanging = set()
        assert (await gateway.client.post("/v1/segment", **as_json())).status_code == 200
        assert not first.done(), "what is here stays"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_a_server_that_asks_for_keys_does_not_cease_to(keyed: Gateway) -> None:
    with pytest.raises(KeysInvalid, match="restart"):
        keyed.services.reload(Settings())
    await refused(keyed, 401, "api-key-missing", {})


async def test_a_key_that_is_taken_away_is_of_no_use_on_an_open_websocket(
    keyed: Gateway, tmp_path: Path
) -> None:
    async with connect(keyed.app, {"authorization": f"Bearer {ANN}"}) as socket:
        socket.say(type="ping")
        assert (await socket.hear())["type"] == "pong"
        (tmp_path / "keys").write_text(f"{BOBS}\n")
        keyed.services.reload(Settings(api_keys_file=tmp_path / "keys"))
        socket.say(type="segment", id="a", prompt="mug")
        assert await socket.closed() == 1008
        await socket.peer.ended()


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer nobody"}])
async def test_a_websocket_without_a_key_is_closed_with_1008(keyed: Gateway, headers: dict[str, str]) -> None:
    async with connect(keyed.app, headers) as socket:
        assert await socket.closed() == 1008
        await socket.peer.ended()


@pytest.mark.parametrize(
    ("headers", "offered"),
    [({"authorization": f"Bearer {ANN}"}, ()), ({}, ("r2sm.v1", f"r2sm.key.{ANN}"))],
)
async def test_a_websocket_with_a_key(
    keyed: Gateway, headers: dict[str, str], offered: tuple[str, ...]
) -> None:
    async with connect(keyed.app, headers, offered) as socket:
        socket.say(type="segment", id="a", **IN_JSON)
        assert (await socket.hear_until_end("a"))[-1]["type"] == "done"


async def test_each_request_on_a_websocket_is_counted(keyed: Gateway) -> None:
    async with connect(keyed.app, {"authorization": f"Bearer {BOB}"}) as socket:
        for id in ("a", "b"):
            socket.say(type="segment", id=id, prompt="mug")
            socket.say_bytes(photo())
            assert (await socket.hear_until_end(id))[-1]["type"] == "done"
        socket.say(type="segment", id="c", **IN_JSON)
        last = await socket.hear()
        assert last["problem"]["type"] == "urn:r2sm:problem:rate-limited"
        assert last["retry_after"] >= 1


async def test_the_client_and_the_command_line_show_a_key(keyed: Gateway, tmp_path: Path) -> None:
    picture = tmp_path / "mug.png"
    picture.write_bytes(photo())
    async with listening(keyed) as port:
        url = f"http://127.0.0.1:{port}"
        async with SegmentClient(url, key=ANN) as client:
            assert (await client.segment(photo(), "mug")).masks
        asked = ("segment", str(picture), "mug", "--url", url)
        (without, why), (with_one, what) = await asyncio.gather(r2sm(*asked), r2sm(*asked, R2SM_API_KEY=ANN))
        assert (without, with_one) == (1, 0), (why, what)
