"""What POST /v1/segment refuses, in both encodings: always a problem that names the fault."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from PIL import Image

from server.uploads import OPTIONS_BYTES
from tests.server.asking import PHOTO, as_json, as_multipart, post, refusal
from tests.server.conftest import Gateway, OpenGateway, photo

BAD_FIELDS = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": "  \n "}, "prompt"),
    ({"prompt": "x" * 2001}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"mask_type": "visible"}, "mask_type"),
    ({"reasoning": "loud"}, "reasoning"),
    ({"max_reasoning_tokens": 0}, "max_reasoning_tokens"),
    ({"max_reasoning_tokens": "9"}, "max_reasoning_tokens"),
    ({"max_reasoning_tokens": 4097}, "max_reasoning_tokens"),
    ({"max_reasoning_tokens": 9, "reasoning": "none"}, "max_reasoning_tokens"),
    ({"objects": 0}, "objects"),
    ({"objects": 9}, "objects"),
    ({"objects": "many"}, "objects"),
    ({"objects": True}, "objects"),
    ({"objects": 1.5}, "objects"),
    ({"include": ["logits"]}, "include.0"),
    ({"include": "heatmap"}, "include"),
    ({"timeout_ms": 0}, "timeout_ms"),
    ({"timeout_ms": 600_001}, "timeout_ms"),
    ({"timeout_ms": float("1e400")}, "timeout_ms"),
    ({"boxes": []}, "boxes"),
    ({"drafts": 9}, "drafts"),
    ({"drafts": -1}, "drafts"),
    ({"box": [1, 2, 3]}, "box.3"),
    ({"box": [9, 2, 9, 4]}, "box"),
    ({"box": [0, 0, 121, 80]}, "box"),
    ({"points": []}, "points"),
    ({"points": [{"x": 1}]}, "points.0.y"),
    ({"points": [{"x": 1, "y": 2, "label": 2}]}, "points.0.label"),
    ({"points": [{"x": 1, "y": float("nan")}]}, "points.0.y"),
    ({"points": [{"x": 1, "y": 1}, {"x": 3, "y": -0.5}]}, "points.1"),
    ({"points": [{"x": 1, "y": 1}] * 33}, "points"),
]


@pytest.mark.parametrize("encode", [as_json, as_multipart])
@pytest.mark.parametrize(("fields", "named"), BAD_FIELDS)
async def test_bad_fields_are_named(
    gateway: Gateway, encode: Any, fields: dict[str, object], named: str
) -> None:
    request = encode()
    if "json" in request:
        body = json.dumps(request["json"] | fields)
        request = {"content": body, "headers": {"content-type": "application/json"}}
    else:
        request["data"]["request"] = json.dumps(json.loads(request["data"]["request"]) | fields)
    problem = await refusal(gateway, request, 422, "invalid-request")
    assert [fault["field"] for fault in problem["errors"]] == [named]
    assert named in problem["detail"]
    assert gateway.mllm.calls.count("reason") == 1, "only the warm-up reasons"


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (None, "image"),
        ({}, "image"),
        ({"data": "no base64!"}, "image.data"),
        ({"data": "data:image/png;base64,AAAA"}, "image.data"),
        ({"data": "AAA"}, "image.data"),
        ({"data": "ÄÄÄÄ"}, "image.data"),
        ({"data": 5}, "image.data"),
        ({"data": "", "url": "http://x"}, "image"),
        ({"data": None}, "image"),
        ({"id": "x" * 101}, "image.id"),
        ({"url": "http://169.254.169.254/"}, "image.url"),
        ({"url": "file:///etc/passwd"}, "image.url"),
        ({"url": "no url: at all"}, "image.url"),
    ],
)
async def test_bad_image_fields_are_named(gateway: Gateway, image: object, named: str) -> None:
    problem = await refusal(gateway, {"json": {"prompt": "mug", "image": image}}, 422, "invalid-request")
    assert named in [fault["field"] for fault in problem["errors"]]


@pytest.mark.parametrize(
    ("image", "status", "slug"),
    [
        (b"", 422, "image-not-an-image"),
        (b"hello", 422, "image-not-an-image"),
        (PHOTO[: len(PHOTO) // 2], 422, "image-truncated"),
        (photo((1, 101)), 422, "image-aspect-ratio"),
        (photo((400, 300), "JPEG"), 422, "image-too-many-pixels"),
        (
            photo(format="GIF", save_all=True, append_images=[Image.new("P", (120, 80))]),
            422,
            "image-animated",
        ),
        (bytes(30_001), 413, "image-too-many-bytes"),
    ],
)
@pytest.mark.parametrize("encode", [as_json, as_multipart])
async def test_bad_images_are_refused_by_name(
    open_gateway: OpenGateway, encode: Any, image: bytes, status: int, slug: str
) -> None:
    async with open_gateway(max_megapixels=0.1, max_image_mb=0.03) as gateway:
        problem = await refusal(gateway, encode(image=image), status, slug)
        assert [fault["field"] for fault in problem["errors"]] == ["image"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]]", b"\xff\xfe", b'{"prompt": "\\ud800"}', b"[" * 100_000])
async def test_what_is_not_json_is_malformed(gateway: Gateway, body: bytes) -> None:
    request = {"content": body, "headers": {"content-type": "application/json; charset=utf-8"}}
    await refusal(gateway, request, 400, "malformed")


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"prompt"'])
async def test_json_that_is_no_object_is_invalid(gateway: Gateway, body: bytes) -> None:
    await refusal(
        gateway, {"content": body, "headers": {"content-type": "application/json"}}, 422, "invalid-request"
    )


@pytest.mark.parametrize("media_type", ["text/plain", "image/png", "application/x-www-form-urlencoded", ""])
async def test_other_media_types(gateway: Gateway, media_type: str) -> None:
    request = {"content": PHOTO, "headers": {"content-type": media_type}}
    await refusal(gateway, request, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("files", "data", "named"),
    [
        ({}, {"request": '{"prompt": "mug"}'}, "image"),
        ({"image": ("a.png", PHOTO)}, {}, "request"),
        ({"image": ("a.png", PHOTO)}, {"request": '{"prompt": "mug"}', "mask": "x"}, "mask"),
        ({"image": (None, PHOTO)}, {"request": '{"prompt": "mug"}'}, "image"),
        ([("image", ("a", PHOTO)), ("image", ("b", PHOTO))], {"request": '{"prompt": "mug"}'}, "image"),
    ],
)
async def test_bad_multipart_parts_are_named(gateway: Gateway, files: Any, data: Any, named: str) -> None:
    files = files or {"request": (None, data.pop("request"))}
    problem = await refusal(gateway, {"files": files, "data": data}, 422, "invalid-request")
    assert [fault["field"] for fault in problem["errors"]] == [named]


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"nonsense"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a',
        ),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: text/plain\r\n\r\nhello\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x; charset=undefined",
            b'--x\r\nContent-Disposition: form-data; name="request"\r\n\r\n\xff\r\n--x--\r\n',
        ),
    ],
)
async def test_broken_multipart_is_malformed(gateway: Gateway, media_type: str, body: bytes) -> None:
    response = await post(gateway, {"content": body, "headers": {"content-type": media_type}})
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_request_that_announces_too_much_is_not_read(open_gateway: OpenGateway) -> None:
    read = 0

    async def body() -> Any:
        nonlocal read
        for _ in range(1000):
            read += 10_000
            yield bytes(10_000)

    async with open_gateway(max_image_mb=0.03) as gateway:
        headers = {"content-type": "application/json", "content-length": "10000000"}
        await refusal(gateway, {"content": body(), "headers": headers}, 413, "request-too-large")
    assert read <= 10_000, "httpx hands over one chunk before anybody reads"


@pytest.mark.parametrize("media_type", ["application/json", "multipart/form-data; boundary=x"])
async def test_a_request_that_goes_on_and_on_is_cut_off(open_gateway: OpenGateway, media_type: str) -> None:
    read = 0
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

    async def body() -> Any:
        nonlocal read
        yield part if "multipart" in media_type else b"["
        while True:
            read += 10_000
            yield bytes(10_000)

    async with open_gateway(max_image_mb=0.03) as gateway:
        request = {"content": body(), "headers": {"content-type": media_type}}
        await refusal(gateway, request, 413, "request-too-large")
    assert read < 600_000, (
        "five times the limit of 105 kB are thrown away, so that the client sees the answer"
    )


async def test_a_request_that_never_arrives_times_out(open_gateway: OpenGateway) -> None:
    async def body() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async with open_gateway(upload_seconds=0.05) as gateway:
        request = {"content": body(), "headers": {"content-type": "application/json"}}
        await refusal(gateway, request, 408, "upload-timeout")
        assert gateway.services.admission.present == 0


async def test_options_that_come_as_a_file_are_bounded(gateway: Gateway) -> None:
    options = json.dumps({"prompt": "mug"}) + " " * OPTIONS_BYTES
    response = await gateway.client.post(
        "/v1/segment", files={"image": ("a.png", PHOTO), "request": ("request.json", options)}
    )
    assert response.status_code == 413
    assert response.json()["type"] == "urn:r2sm:problem:request-too-large"
