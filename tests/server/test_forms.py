"""Forms of an answer: polygons, PNG masks, unions, the overlay, COCO results, gzip."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from engines.vision import masks
from server.accept import preferred
from server.drawing import DRAW_THREADS
from server.forms import polygons
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.waiting import until

PHOTO = photo()


async def post(gateway: Gateway, accept: str, **options: Any) -> httpx.Response:
    body = {"prompt": "mug", "image": {"data": base64.b64encode(PHOTO).decode()}, **options}
    return await gateway.client.post("/v1/segment", json=body, headers={"accept": accept})


async def ask(gateway: Gateway, accept: str = "*/*", **options: Any) -> httpx.Response:
    response = await post(gateway, accept, **options)
    assert response.status_code == 200, response.text
    return response


async def test_polygons_and_png_masks_are_the_mask(gateway: Gateway) -> None:
    answer = (await ask(gateway, mask_type="both", include=["polygon", "png"])).json()
    for mask in answer["masks"]:
        pixels = masks.decode(mask["rle"])
        png = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask["png_base64"]))))
        assert ((png == 255) == pixels).all()
        assert bool(mask["polygon"]) == bool(pixels.any())
    assert "union" not in answer


async def test_what_is_not_asked_for_is_not_there(gateway: Gateway) -> None:
    answer = (await ask(gateway)).json()
    assert "union" not in answer
    assert list(answer["masks"][0]) == ["object", "mask_type", "rle", "bbox", "area", "score"]


async def test_the_union_is_of_all_objects(gateway: Gateway) -> None:
    answer = (await ask(gateway, mask_type="both", objects=3, include=["union"])).json()
    assert [union["mask_type"] for union in answer["union"]] == ["modal", "amodal"]
    for union in answer["union"]:
        parts = [masks.decode(m["rle"]) for m in answer["masks"] if m["mask_type"] == union["mask_type"]]
        assert len(parts) == 3
        assert (masks.decode(union["rle"]) == np.logical_or.reduce(parts)).all()
        assert union["area"] == np.logical_or.reduce(parts).sum()


async def test_forms_come_with_streams_too(gateway: Gateway) -> None:
    stream = (await ask(gateway, "text/event-stream", objects=2, include=["polygon", "png", "union"])).text
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events][-4:] == ["mask", "mask", "union", "done"]
    assert "polygon" in events[-4]
    assert "png_base64" in events[-4]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_polygons_filled_again_give_the_mask(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    filled = np.zeros_like(mask)
    for polygon in polygons(mask):
        flat: Any = [polygon]
        [code] = coco.frPyObjects(flat, height, width)
        filled |= coco.decode(code).astype(bool)
    assert (filled | ~mask).all(), "nothing is lost"
    holes = filled & ~mask
    assert not (holes & ~enclosed(mask)).any(), "nothing is added but holes"


def enclosed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the background cannot reach the outside in steps to the side, up or down."""
    outside = np.pad(~mask, 1, constant_values=True)
    reached = np.zeros_like(outside)
    reached[0, 0] = True
    for _ in range(outside.size):
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= outside
        if (grown == reached).all():
            break
        reached = grown
    inside: NDArray[np.bool_] = (outside & ~reached)[1:-1, 1:-1]
    return inside


async def test_the_overlay_is_a_picture(gateway: Gateway) -> None:
    response = await ask(gateway, "image/png")
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == (120, 80)
    assert "content-encoding" not in response.headers


async def test_the_overlay_of_an_uploaded_image(gateway: Gateway) -> None:
    stored = await gateway.client.post("/v1/images", files={"image": PHOTO})
    response = await ask(gateway, "image/png", image={"id": stored.json()["id"]})
    assert Image.open(io.BytesIO(response.content)).size == (120, 80)


async def test_coco_results_load_as_they_are(gateway: Gateway, tmp_path: Path) -> None:
    ids = {"image_id": 7, "category_id": 3}
    response = await ask(gateway, "application/vnd.coco.results+json", objects=2, coco=ids)
    assert response.headers["content-type"] == "application/vnd.coco.results+json"
    (tmp_path / "results.json").write_bytes(response.content)
    truth = {"images": [{"id": 7, "height": 80, "width": 120}], "annotations": [], "categories": [{"id": 3}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    loaded = COCO(str(tmp_path / "truth.json")).loadRes(str(tmp_path / "results.json"))
    plain = (await ask(gateway, objects=2)).json()
    for found, mask in zip(loaded.loadAnns(loaded.getAnnIds()), plain["masks"], strict=True):
        assert (found["image_id"], found["category_id"]) == (7, 3)
        assert (loaded.annToMask(found).astype(bool) == masks.decode(mask["rle"])).all()


async def test_json_over_a_kibibyte_is_compressed(gateway: Gateway) -> None:
    large, small = await ask(gateway, objects=4, include=["png"]), await gateway.client.get("/livez")
    assert len(large.content) > 1024
    assert large.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in small.headers
    assert "content-encoding" not in (await ask(gateway, "text/event-stream", objects=4)).headers


def test_the_accept_header_is_understood() -> None:
    offered = ("application/json", "text/event-stream", "image/png")
    assert preferred("", offered) == "application/json"
    assert preferred("*/*", offered) == "application/json"
    assert preferred("image/*", offered) == "image/png"
    assert preferred("text/event-stream;q=0.5, image/png", offered) == "image/png"
    assert preferred("application/json;q=0, */*", offered) == "text/event-stream"


@pytest.mark.parametrize(
    ("accept", "options"),
    [
        ("application/json", {"include": ["polygon"]}),
        ("application/json", {"include": ["heatmap"]}),
        ("text/event-stream", {"include": ["polygon", "png"]}),
        ("text/event-stream", {"include": ["heatmap"]}),
        ("image/png", {}),
    ],
)
async def test_drawing_holds_up_nothing_else(
    open_gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch, accept: str, options: dict[str, Any]
) -> None:
    """More drawings hang than the default thread pool has threads, which takes the data of every image."""
    go_on, names = threading.Event(), list[str]()

    def hanging(draw: Any) -> Any:
        def drawn(*given: Any) -> Any:
            names.append(threading.current_thread().name)
            assert go_on.wait(60)
            return draw(*given)

        return drawn

    async with open_gateway(max_in_flight=64) as gateway:
        for place in ("forms.polygons", "forms.draw_overlay", "collect.draw_heatmap", "events.draw_heatmap"):
            room, name = place.split(".")
            monkeypatch.setattr(f"server.{place}", hanging(vars(import_module(f"server.{room}"))[name]))
        drawings = [asyncio.create_task(ask(gateway, accept, **options)) for _ in range(40)]
        try:
            await until(lambda: len(names) == DRAW_THREADS)
            await asyncio.wait_for(ask(gateway), 30)
            late = await asyncio.wait_for(post(gateway, accept, timeout_ms=3000, **options), 30)
            assert "urn:r2sm:problem:deadline-exceeded" in late.text
            assert len(names) == DRAW_THREADS
        finally:
            go_on.set()
        await asyncio.gather(*drawings)
    assert len(names) == len(drawings)
    assert all(name.startswith("draw") for name in names)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("draw")]
