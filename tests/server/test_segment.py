"""POST /v1/segment on a scripted language model: both encodings, every answer, every refusal."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from engines.vision import masks
from server.images import digest_of
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.stand_ins import ScriptedMllm

PHOTO = photo()


def as_json(prompt: object = "the whole mug", image: bytes = PHOTO, **options: object) -> dict[str, Any]:
    return {"json": {"prompt": prompt, "image": {"data": base64.b64encode(image).decode()}, **options}}


def as_multipart(prompt: object = "the whole mug", image: bytes = PHOTO, **options: object) -> dict[str, Any]:
    return {
        "files": {"image": ("mug.png", image)},
        "data": {"request": json.dumps({"prompt": prompt, **options})},
    }


async def post(gateway: Gateway, request: dict[str, Any]) -> httpx.Response:
    return await gateway.client.post("/v1/segment", **request)


async def refusal(gateway: Gateway, request: dict[str, Any], status: int, slug: str) -> dict[str, Any]:
    response = await post(gateway, request)
    problem: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"], problem["type"]) == (
        status,
        status,
        f"urn:r2sm:problem:{slug}",
    )
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"].startswith("urn:uuid:")
    assert "Traceback" not in response.text
    return problem


@pytest.mark.parametrize("encode", [as_json, as_multipart])
async def test_the_answer_has_the_agreed_shape(gateway: Gateway, encode: Any) -> None:
    response = await post(gateway, encode(include=["heatmap", "reasoning"]))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert list(answer) == [
        "id", "model", "image", "reasoning", "decision", "masks", "hidden", "heatmap", "timings_ms", "usage",
    ]  # fmt: skip
    assert answer["model"] == "tiny"
    assert answer["image"] == {"id": digest_of(PHOTO), "width": 120, "height": 80}
    assert answer["reasoning"] == "The mug is behind the box."
    assert answer["decision"] == {"mask_type": "amodal", "confidence": 0.9, "source": "model"}
    [mask] = answer["masks"]
    assert list(mask) == ["object", "mask_type", "rle", "bbox", "area", "score"]
    assert (mask["object"], mask["mask_type"], mask["rle"]["size"]) == (0, "amodal", [80, 120])
    assert masks.decode(mask["rle"]).sum() == mask["area"]
    assert answer["hidden"] == []
    png = Image.open(io.BytesIO(base64.b64decode(answer["heatmap"]["png_base64"])))
    assert (png.mode, [png.height, png.width]) == ("L", answer["heatmap"]["size"])
    assert answer["usage"] == {"prompt_tokens": 20, "reasoning_tokens": 3}
    assert answer["timings_ms"]["total"] > 0


async def test_both_encodings_give_the_same_masks(gateway: Gateway) -> None:
    first, second = await asyncio.gather(post(gateway, as_json()), post(gateway, as_multipart()))
    assert first.json()["masks"][0]["rle"] == second.json()["masks"][0]["rle"]
    assert first.json()["id"] != second.json()["id"]


async def test_both_masks_and_the_hidden_part(gateway: Gateway) -> None:
    answer = (await post(gateway, as_json(mask_type="both", objects=2))).json()
    assert [(m["object"], m["mask_type"]) for m in answer["masks"]] == [
        (0, "modal"), (0, "amodal"), (1, "modal"), (1, "amodal"),
    ]  # fmt: skip
    assert [part["object"] for part in answer["hidden"]] == [0, 1]
    assert all(0 <= part["fraction"] <= 1 for part in answer["hidden"])


async def test_what_is_not_included_is_null(gateway: Gateway) -> None:
    answer = (await post(gateway, as_json(include=[]))).json()
    assert answer["reasoning"] is None
    assert answer["heatmap"] is None
    answer = (await post(gateway, as_json())).json()
    assert answer["reasoning"], "the reasoning is included unless the request says otherwise"


async def test_no_such_object(open_gateway: OpenGateway) -> None:
    async with open_gateway(ScriptedMllm(prompt_count=0)) as gateway:
        answer = (await post(gateway, as_json(include=["heatmap"]))).json()
    assert answer["masks"] == []
    assert answer["heatmap"] is None


async def test_the_request_part_may_be_a_file(gateway: Gateway) -> None:
    options = json.dumps({"prompt": "mug"}).encode()
    files = {"image": ("mug.png", PHOTO), "request": ("request.json", options)}
    assert (await gateway.client.post("/v1/segment", files=files)).status_code == 200


async def test_an_upright_photo_has_upright_masks(gateway: Gateway) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = (await post(gateway, as_json(image=photo((120, 80), "JPEG", exif=exif)))).json()
    assert (answer["image"]["width"], answer["image"]["height"]) == (80, 120)
    assert answer["masks"][0]["rle"]["size"] == [120, 80]


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
        ({}, "image.data"),
        ({"data": "no base64!"}, "image.data"),
        ({"data": "data:image/png;base64,AAAA"}, "image.data"),
        ({"data": "AAA"}, "image.data"),
        ({"data": "ÄÄÄÄ"}, "image.data"),
        ({"data": 5}, "image.data"),
        ({"data": "", "url": "http://x"}, "image.url"),
        ({"url": "http://169.254.169.254/"}, "image.data"),
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


@pytest.mark.parametrize("stage", ["reason", "decide", "warm", "concentrate"])
async def test_a_language_model_that_is_away_is_503(gateway: Gateway, stage: str) -> None:
    gateway.mllm.failing = {stage}
    response = await post(gateway, as_json())
    assert response.headers["retry-after"] == "7"
    await refusal(gateway, as_json(), 503, "model-unavailable")
    gateway.mllm.failing = set()
    assert (await post(gateway, as_json())).status_code == 200


async def test_a_vision_runtime_that_fails_is_500_without_details(gateway: Gateway) -> None:
    gateway.vision.failing = {"decode"}
    problem = await refusal(gateway, as_json(), 500, "vision-failed")
    assert "decode failed" not in json.dumps(problem)


async def test_a_surprise_is_500_without_details(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def surprise(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(gateway.mllm, "decide", surprise)
    problem = await refusal(gateway, as_json(), 500, "internal")
    assert "secret" not in json.dumps(problem)


async def test_a_missed_deadline_is_504_and_the_work_stops(gateway: Gateway) -> None:
    gateway.mllm.hanging = {"reason"}
    await refusal(gateway, as_json(timeout_ms=100), 504, "deadline-exceeded")
    assert gateway.mllm.running == 0
    assert gateway.services.admission.present == 0


async def test_waiting_for_a_turn_counts_towards_the_deadline(open_gateway: OpenGateway) -> None:
    async with open_gateway(max_in_flight=1) as gateway:
        gateway.mllm.hanging = {"decide"}
        first = asyncio.create_task(post(gateway, as_json(timeout_ms=2000)))
        await gateway.mllm.reached.wait()
        await refusal(gateway, as_json(timeout_ms=50), 504, "deadline-exceeded")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_a_full_house_is_503_before_the_body_is_read(open_gateway: OpenGateway) -> None:
    async with open_gateway(max_in_flight=1, max_queued=1) as gateway:
        gateway.mllm.hanging = {"decide"}
        guests = [asyncio.create_task(post(gateway, as_json())) for _ in range(2)]
        await gateway.mllm.reached.wait()
        response = await post(gateway, {"content": b"not even JSON"})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json()["type"] == "urn:r2sm:problem:overloaded"
        for guest in guests:
            guest.cancel()
        await asyncio.gather(*guests, return_exceptions=True)
        gateway.mllm.hanging = set()
        assert (await post(gateway, as_json())).status_code == 200


async def test_a_client_that_leaves_frees_its_work(gateway: Gateway) -> None:
    gateway.mllm.hanging = {"reason"}
    body = json.dumps(as_json()["json"]).encode()
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/segment", "raw_path": b"/v1/segment", "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "root_path": "", "scheme": "http", "http_version": "1.1",
        "server": ("gateway", 80), "client": ("1.2.3.4", 5),
    }  # fmt: skip
    served = asyncio.create_task(gateway.app(scope, incoming.get, send))
    await gateway.mllm.reached.wait()
    assert gateway.mllm.running > 0
    incoming.put_nowait({"type": "http.disconnect"})
    async with asyncio.timeout(60):
        await served
    assert gateway.mllm.running == 0
    assert gateway.services.admission.present == 0
    assert sent[0]["status"] == 499


async def test_many_at_once(gateway: Gateway) -> None:
    images = [photo((90 + i, 60)) for i in range(4)]
    responses = await asyncio.gather(*(post(gateway, as_multipart(image=images[i % 4])) for i in range(24)))
    assert [response.status_code for response in responses] == [200] * 24
    assert gateway.vision.encodes == 4 + 1, "one for each image, one to warm up"
    widths = [response.json()["masks"][0]["rle"]["size"][1] for response in responses]
    assert widths == [90 + i % 4 for i in range(24)]


async def test_the_heatmap_is_the_largest_of_all(gateway: Gateway) -> None:
    answer = (await post(gateway, as_json(objects=3, include=["heatmap"]))).json()
    png = Image.open(io.BytesIO(base64.b64decode(answer["heatmap"]["png_base64"])))
    assert np.asarray(png).max() > 0
