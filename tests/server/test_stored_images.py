"""Images by id and by URL, and several prompts on one image."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from PIL import Image

from engines.errors import ImageRejected
from engines.images import ImagePreparer, PreparedImage
from server.errors import RequestRejected
from server.images import ImageLimits, digest_of
from server.remote_images import RemoteImages, is_public
from tests.server.conftest import Gateway, OpenGateway, photo

PHOTO = photo()
ID = digest_of(PHOTO)


async def upload(gateway: Gateway, data: bytes = PHOTO) -> httpx.Response:
    return await gateway.client.post("/v1/images", content=data, headers={"content-type": "image/png"})


async def ask(gateway: Gateway, image: dict[str, Any]) -> httpx.Response:
    return await gateway.client.post("/v1/segment", json={"prompt": "mug", "image": image})


async def test_an_uploaded_image_is_encoded_at_once_and_asked_about_by_its_id(gateway: Gateway) -> None:
    gateway.vision.gate.clear()
    response = await upload(gateway)
    assert response.status_code == 201, response.text
    stored = response.json()
    assert (stored["id"], stored["width"], stored["height"]) == (ID, 120, 80)
    assert stored["expires_at"].endswith("Z")
    assert response.headers["location"] == f"/v1/images/{ID}"
    gateway.vision.gate.set()
    async with asyncio.timeout(10):
        while gateway.vision.encodes < 2:  # noqa: ASYNC110  # the warm-up's, and this one that nobody asked for
            await asyncio.sleep(0.01)
    by_id, whole = (
        await ask(gateway, {"id": ID}),
        await ask(gateway, {"data": base64.b64encode(PHOTO).decode()}),
    )
    assert by_id.status_code == 200, by_id.text
    assert by_id.json()["masks"] == whole.json()["masks"]
    assert gateway.vision.encodes == 2


async def test_multipart_uploads_too(gateway: Gateway) -> None:
    response = await gateway.client.post("/v1/images", files={"image": ("mug.png", PHOTO)})
    assert (response.status_code, response.json()["id"]) == (201, ID)
    response = await gateway.client.post("/v1/images", files={"photo": ("mug.png", PHOTO)})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "photo")


async def test_found_and_deleted(gateway: Gateway) -> None:
    stored = (await upload(gateway)).json()
    path = f"/v1/images/{ID}"
    assert (await gateway.client.get(path)).json() == stored
    head = await gateway.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert (await gateway.client.delete(path)).status_code == 204
    for response in (
        await gateway.client.get(path), await gateway.client.delete(path), await ask(gateway, {"id": ID}),
    ):  # fmt: skip
        assert response.status_code == 404
        assert response.json()["type"] == "urn:r2sm:problem:image-not-found"
        assert "expired" in response.json()["detail"]
    assert (await gateway.client.head(path)).status_code == 404


async def test_a_deleted_image_is_encoded_anew(gateway: Gateway) -> None:
    await upload(gateway)
    await ask(gateway, {"id": ID})
    await gateway.client.delete(f"/v1/images/{ID}")
    before = gateway.vision.encodes
    await ask(gateway, {"data": base64.b64encode(PHOTO).decode()})
    assert gateway.vision.encodes == before + 1


async def test_images_expire(open_gateway: OpenGateway) -> None:
    async with open_gateway(stored_image_seconds=0.05) as gateway:
        await upload(gateway)
        await asyncio.sleep(0.1)
        assert (await ask(gateway, {"id": ID})).status_code == 404


@pytest.mark.parametrize(
    ("data", "media_type", "status", "slug"),
    [
        (b"hello", "image/png", 422, "image-not-an-image"),
        (PHOTO[:-40], "application/octet-stream", 422, "image-truncated"),
        (PHOTO, "text/plain", 415, "unsupported-media-type"),
        (bytes(31_000), "image/png", 413, "request-too-large"),
    ],
)
async def test_bad_uploads(
    open_gateway: OpenGateway, data: bytes, media_type: str, status: int, slug: str
) -> None:
    async with open_gateway(max_image_mb=0.03) as gateway:
        response = await gateway.client.post("/v1/images", content=data, headers={"content-type": media_type})
        assert (response.status_code, response.json()["type"]) == (status, f"urn:r2sm:problem:{slug}")


async def batch(gateway: Gateway, *requests: dict[str, Any], image: object = None) -> httpx.Response:
    image = image or {"data": base64.b64encode(PHOTO).decode()}
    return await gateway.client.post("/v1/segment/batch", json={"image": image, "requests": list(requests)})


async def test_a_batch_answers_in_order_and_one_failure_fails_alone(gateway: Gateway) -> None:
    gateway.mllm.failing_prompts = {"broken"}
    response = await batch(
        gateway, {"prompt": "a", "objects": 2}, {"prompt": "broken"}, {"prompt": "c", "objects": 3}
    )
    assert response.status_code == 200, response.text
    first, second, third = response.json()["results"]
    assert (first["status"], second["status"], third["status"]) == (200, 503, 200)
    assert (len(first["response"]["masks"]), len(third["response"]["masks"])) == (2, 3)
    assert second["response"] is None
    assert second["problem"]["type"] == "urn:r2sm:problem:model-unavailable"


async def test_a_batch_encodes_once(gateway: Gateway) -> None:
    response = await batch(
        gateway, {"prompt": "a"}, {"prompt": "b", "objects": 2}, {"prompt": "c", "objects": 3}
    )
    results = response.json()["results"]
    assert [result["status"] for result in results] == [200] * 3
    assert [len(result["response"]["masks"]) for result in results] == [1, 2, 3]
    assert gateway.vision.encodes == 2


async def test_each_prompt_of_a_batch_counts(open_gateway: OpenGateway) -> None:
    async with open_gateway(rate_limit="5/hour") as gateway:
        assert (await batch(gateway, *[{"prompt": "a"}] * 4)).status_code == 200
        response = await batch(gateway, {"prompt": "a"}, {"prompt": "b"})
        assert (response.status_code, response.json()["type"]) == (429, "urn:r2sm:problem:rate-limited")


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "DELETE"])
async def test_whatever_is_asked_about_an_image_counts(open_gateway: OpenGateway, method: str) -> None:
    async with open_gateway(rate_limit="2/hour") as gateway:
        await gateway.client.get("/v1/models")
        path = "/v1/images" if method == "POST" else f"/v1/images/{ID}"
        statuses = [(await gateway.client.request(method, path)).status_code for _ in range(3)]
        assert statuses == ([415, 415, 429] if method == "POST" else [404, 404, 429])
        assert (await gateway.client.get("/v1/models")).status_code == 200


async def test_bad_batches(gateway: Gateway) -> None:
    for requests in ([], [{"prompt": "a"}] * 17, [{"prompt": ""}]):
        assert (await batch(gateway, *requests)).status_code == 422
    assert (await batch(gateway, {"prompt": "a"}, image={"id": ID})).status_code == 404
    response = await gateway.client.post("/v1/segment/batch", files={"image": PHOTO})
    assert response.status_code == 415


ADDRESSES = {
    "pictures.test": ["93.184.216.34"],
    "inside.test": ["10.0.0.7"],
    "half.test": ["93.184.216.34", "127.0.0.1"],
    "other.test": ["93.184.216.35"],
}


async def resolve(host: str, port: int) -> list[str]:
    return ADDRESSES[host]


def remote(answer: Any, seconds: float = 5.0) -> RemoteImages:
    hosts = frozenset({"pictures.test", "inside.test", "half.test"})
    limits = ImageLimits(max_bytes=10_000)
    return RemoteImages(hosts, limits, seconds, resolve=resolve, transport=httpx.MockTransport(answer))


async def test_a_url_is_fetched_from_the_address_that_was_checked() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"file")

    assert await remote(answer).fetch("https://pictures.test:8443/a.png?b=c") == b"file"
    [request] = seen
    assert str(request.url) == "https://93.184.216.34:8443/a.png?b=c"
    assert request.headers["host"] == "pictures.test:8443"
    assert request.extensions["sni_hostname"] == "pictures.test"


@pytest.mark.parametrize(
    "url",
    [
        "https://other.test/", "https://pictures.test.evil.test/", "http://127.0.0.1/", "http://[::1]/",
        "https://inside.test/", "https://half.test/", "ftp://pictures.test/", "https://me:secret@pictures.test/",
        "https://pictures.test@other.test/", "pictures.test", "", "http://[", "http://xn--/",
    ],
)  # fmt: skip
async def test_other_urls_are_refused_before_anything_is_sent(url: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError("nothing may be sent")

    with pytest.raises(RequestRejected, match=r"image\.url"):
        await remote(answer).fetch(url)


@pytest.mark.parametrize(
    "target",
    [
        "https://other.test/x",
        "http://10.0.0.7/",
        "https://inside.test/",
        "//other.test",
    ],
)
async def test_redirects_elsewhere_are_refused(target: str) -> None:
    with pytest.raises(RequestRejected, match=r"image\.url"):
        await remote(lambda _: httpx.Response(302, headers={"location": target})).fetch(
            "https://pictures.test/"
        )


@pytest.mark.parametrize("target", [b"http://xn--/", b"\xff://", b"http://[", b"https://pictures.test:port/"])
async def test_redirects_to_what_is_no_url_are_refused(target: bytes) -> None:
    with pytest.raises(RequestRejected):
        await remote(lambda _: httpx.Response(302, headers=[(b"location", target)])).fetch(
            "https://pictures.test/"
        )


async def test_a_redirect_on_the_same_host_is_followed() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/":
            return httpx.Response(302, headers={"location": "/there"})
        return httpx.Response(200, content=b"file")

    assert await remote(answer).fetch("https://pictures.test/") == b"file"


async def test_faults_of_the_host_are_told() -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    for answer in (
        lambda _: httpx.Response(404),
        lambda _: httpx.Response(302, headers={"location": "/"}),
        away,
    ):
        with pytest.raises(RequestRejected, match="cannot be fetched"):
            await remote(answer).fetch("https://pictures.test/")
    with pytest.raises(RequestRejected, match="did not arrive"):
        await remote(never, seconds=0.05).fetch("https://pictures.test/")
    with pytest.raises(ImageRejected, match="larger"):
        await remote(lambda _: httpx.Response(200, content=bytes(10_001))).fetch("https://pictures.test/")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False),
        ("fe80::1", False), ("fd00::1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False), ("64:ff9b:1::a00:1", False), ("::7f00:1", False), ("fec0::1", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_urls_are_off_unless_allowed(gateway: Gateway) -> None:
    response = await ask(gateway, {"url": "https://pictures.test/a.png"})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "image.url")


@asynccontextmanager
async def fetching(
    open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch, answer: Any, seconds: float = 60.0
) -> AsyncIterator[Gateway]:
    """A gateway whose images come from `answer` instead of the internet."""
    scripted = partial(RemoteImages, resolve=resolve, transport=httpx.MockTransport(answer))
    monkeypatch.setattr("server.services.RemoteImages", scripted)
    async with open_gateway(image_url_hosts="pictures.test", image_url_seconds=seconds) as gateway:
        yield gateway


async def test_an_image_at_a_url_is_asked_about_as_any_other(
    open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fetching(open_gateway, monkeypatch, lambda _: httpx.Response(200, content=PHOTO)) as gateway:
        response = await ask(gateway, {"url": "https://pictures.test/a.png"})
        assert response.status_code == 200, response.text
        assert response.json()["image"] == {"id": ID, "width": 120, "height": 80}
        sent = await ask(gateway, {"data": base64.b64encode(PHOTO).decode()})
        assert response.json()["masks"] == sent.json()["masks"]


async def test_an_image_that_does_not_come_is_a_problem(
    open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with fetching(open_gateway, monkeypatch, never, 0.2) as gateway:
        response = await ask(gateway, {"url": "https://pictures.test/a.png"})
        problem = response.json()
        assert (response.status_code, problem["type"]) == (422, "urn:r2sm:problem:image-unreachable")
        assert "did not arrive within 0.2 s" in problem["detail"]
        assert problem["errors"][0]["field"] == "image.url"
        assert gateway.services.admission.present == 0


async def test_no_image_is_kept_where_there_is_no_memory_for_it(open_gateway: OpenGateway) -> None:
    async with open_gateway(stored_images_mib=0) as gateway:
        assert (await upload(gateway)).status_code == 201
        assert (await ask(gateway, {"id": ID})).status_code == 404


def preparing(monkeypatch: pytest.MonkeyPatch, hear: Callable[[str], object]) -> None:
    """Tell the digest of every image that is decoded, in the thread that does it, but for the warm-up's."""
    prepare = ImagePreparer.prepare

    def told(self: ImagePreparer, image: Image.Image, digest: str) -> PreparedImage:
        if digest != "sha256:warm-up":
            hear(digest)
        return prepare(self, image, digest)

    monkeypatch.setattr(ImagePreparer, "prepare", told)


@pytest.mark.parametrize(("mebibytes", "times"), [(0, 2), (1, 1)])
async def test_decoded_images_are_remembered_as_far_as_there_is_memory(
    open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch, mebibytes: int, times: int
) -> None:
    decoded = list[str]()
    preparing(monkeypatch, decoded.append)
    async with open_gateway(image_cache_mib=mebibytes) as gateway:
        for _ in range(2):
            assert (await ask(gateway, {"data": base64.b64encode(PHOTO).decode()})).status_code == 200
    assert decoded == [ID] * times


async def test_as_many_images_are_decoded_at_once_as_there_are_threads(
    open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = threading.Barrier(3)
    preparing(monkeypatch, lambda _: three.wait(60))
    async with open_gateway(image_threads=3) as gateway:
        files = [base64.b64encode(photo((size, size))).decode() for size in (20, 30, 40)]
        answers = await asyncio.gather(*(ask(gateway, {"data": file}) for file in files))
    assert [answer.status_code for answer in answers] == [200] * 3
