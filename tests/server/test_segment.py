"""POST /v1/segment on a scripted language model: every answer, every fault, everybody who leaves."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.vision import masks
from server.images import digest_of
from tests.server.asking import PHOTO, as_json, as_multipart, post, refusal
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.stand_ins import ScriptedMllm


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
