"""The playground in a real Chromium, on a gateway whose language model is a stand-in."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from playwright.async_api import Request, Route, expect

from engines.vision import masks
from server.client import SegmentClient
from tests.server.conftest import Gateway, OpenGateway, photo
from tests.server.playground.conftest import OpenPage, answered, ready
from tests.stand_ins import ScriptedMllm

WORDS = ("The green mug ", "is behind ", "the yellow book.")
DRAWN = "document.getElementById('canvas').toDataURL()"
PHONE: dict[str, Any] = {"device_scale_factor": 2, "has_touch": True}


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> AsyncIterator[Gateway]:
    async with open_gateway(ScriptedMllm(words=WORDS)) as opened:
        yield opened


async def test_a_run_from_a_sample_to_an_answer(url: str, open_page: OpenPage) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        await expect(page.locator("#prompt")).to_have_value(
            "I want the whole green mug, even where the yellow book hides it."
        )
        await page.get_by_role("button", name="Segment").click()
        await answered(page)
        await expect(page.locator("#reasoning-text")).to_have_text("".join(WORDS))
        await expect(page.get_by_role("meter")).to_have_attribute("aria-valuenow", "90")
        await expect(page.get_by_role("radio", name="Amodal")).to_be_checked()
        await expect(page.get_by_role("status")).to_contain_text("One object, amodal, 90 %")
        for view in ("Modal", "Hidden part", "Heatmap"):
            await page.get_by_role("radio", name=view, exact=True).check()
            await expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile(view.lower()))


async def test_a_picture_of_ones_own_is_sent_once(url: str, gateway: Gateway, open_page: OpenPage) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        sent: list[str] = []

        def note(request: Request) -> None:  # the samples' pictures may still be on their way
            if request.method == "POST":
                sent.append(f"POST {request.url.removeprefix(url)}")

        page.on("request", note)
        await page.locator("#file").set_input_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": photo()}
        )
        for _ in range(2):
            await page.get_by_role("button", name="Segment").click()
            await answered(page)
        assert sent == ["POST /v1/images", "POST /v1/segment", "POST /v1/segment"]
        async with SegmentClient(url) as client:  # forgotten by the server, it is sent again
            await client.delete((await client.upload(photo())).id)
        await page.get_by_role("button", name="Segment").click()
        await answered(page)
        assert sent[3:] == ["POST /v1/segment", "POST /v1/images", "POST /v1/segment"]


async def test_problems_are_told_in_the_servers_words(
    url: str, gateway: Gateway, open_page: OpenPage
) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        gateway.mllm.failing = {"decide"}
        await page.get_by_role("button", name="Segment").click()
        alert = page.get_by_role("alert")
        await expect(alert).to_contain_text("The model is not available")
        await expect(alert).to_contain_text("Try again in 7 s.")
        await expect(alert).to_contain_text("urn:r2sm:problem:model-unavailable")
        gateway.mllm.failing = set()
        await page.get_by_role("button", name="Segment").click()
        await answered(page)
        await expect(alert).to_be_hidden()
        await page.locator("#file").set_input_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": b"text"}
        )
        await expect(alert).to_contain_text("The image cannot be used")


@pytest.mark.parametrize("by", ["button", "key"])
async def test_a_run_can_be_cancelled(url: str, gateway: Gateway, open_page: OpenPage, by: str) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        gateway.mllm.hanging = {"reason"}
        await page.get_by_role("button", name="Segment").click()
        await expect(page.locator("#reasoning-text")).to_have_text("".join(WORDS))
        await (
            page.get_by_role("button", name="Cancel").click()
            if by == "button"
            else page.keyboard.press("Escape")
        )
        await expect(page.get_by_role("status")).to_have_text("Cancelled.")
        gateway.mllm.hanging = set()
        await page.get_by_role("button", name="Segment").click()
        await answered(page)
        assert gateway.mllm.running == 0


async def test_all_of_it_works_from_the_keyboard(url: str, open_page: OpenPage) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        seen: list[str] = []
        for _ in range(20):
            await page.keyboard.press("Tab")
            seen.append(
                await page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
            )
        wanted = ["open-settings", "canvas", "file", "prompt", "run"]
        assert [id for id in dict.fromkeys(seen) if id in wanted] == wanted
        await page.locator("#prompt").focus()
        await page.keyboard.press("Enter")
        await answered(page)
        await page.get_by_role("radio", name="Amodal").focus()
        await page.keyboard.press("ArrowLeft")
        await expect(page.get_by_role("radio", name="Modal", exact=True)).to_be_checked()
        outline = await page.evaluate(
            "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
        )
        assert outline == "solid", "where the focus is can be seen"


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 390)])
async def test_it_fits_a_phone_in_either_colour_scheme(
    url: str, open_page: OpenPage, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 844}
    async with open_page(url, color_scheme=scheme, viewport=size, **PHONE) as watched:
        page = watched.page
        await ready(page)
        await page.get_by_role("button", name="Segment").click()
        await answered(page)
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        paper = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = int(paper.removeprefix("rgb(").split(",")[0])
        assert brightness < 60 if scheme == "dark" else brightness > 200
        await page.locator("#file").set_input_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": photo((200, 500))}
        )
        await expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile("200 by 500"))
        box = await page.locator("#canvas").bounding_box()
        assert box is not None
        assert box["width"] / box["height"] == pytest.approx(200 / 500, rel=0.01)


async def test_the_key_stays_in_the_tab_and_goes_with_every_request(url: str, open_page: OpenPage) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        await page.get_by_role("button", name="Settings").click()
        await page.get_by_label("API key").fill("secret")
        async with page.expect_request("**/v1/models") as asked:
            await page.get_by_role("button", name="Save").click()
        assert (await (await asked.value).all_headers())["authorization"] == "Bearer secret"
        kept = await page.evaluate("[localStorage.length, sessionStorage.getItem('r2sm.key')]")
        assert kept == [0, "secret"]


async def test_drafts_and_points_are_used_where_the_server_offers_them(url: str, open_page: OpenPage) -> None:
    """The server's part is a stand-in: an OpenAPI document and a stream as they would be."""
    asked: list[dict[str, Any]] = []
    async with open_page(url) as watched:
        page = watched.page

        async def offer(route: Route) -> None:
            document = await (await route.fetch()).json()
            options = document["components"]["schemas"]["SegmentOptions"]
            options["properties"] |= {
                "drafts": {"type": "integer", "maximum": 4},
                "points": {"type": "array"},
            }
            options["required"] = []
            await route.fulfill(json=document)

        async def answer(route: Route) -> None:
            asked.append(json.loads(route.request.post_data or ""))
            await route.fulfill(body=_story(), content_type="text/event-stream")

        await page.route("**/openapi.json", offer)
        await page.route("**/v1/segment", answer)
        await page.reload()
        await ready(page)
        box = await page.locator("#canvas").bounding_box()
        assert box is not None
        await page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
        await page.locator("#canvas").focus()
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("Shift+Enter")
        await expect(page.get_by_role("list", name="Points").get_by_role("listitem")).to_have_count(2)
        await page.locator("#prompt").focus()
        bare = await page.evaluate(DRAWN)
        await page.get_by_role("button", name="Segment").click()
        await expect(page.get_by_role("alert")).to_contain_text("The answer broke off")
        assert asked.pop()["drafts"] == 2
        assert await page.evaluate(DRAWN) != bare, "the draft can be seen"
        await page.locator("#prompt").fill("")
        await page.get_by_role("button", name="Segment").click()
        await expect(page.get_by_role("alert")).to_contain_text("The answer broke off")
        [request] = asked
        assert {"image", "mask_type", "points"} == set(request)
        here, not_here = request["points"]
        assert abs(here["x"] - 160) <= 2
        assert (here["label"], not_here["label"]) == (1, 0)
        assert not_here["x"] == 336, "one step to the right of the middle"


def _story() -> str:
    """A stream that stops after a draft."""
    mask = masks.encode(np.eye(557, 640, dtype=bool))
    events = [
        {"type": "accepted", "id": "a", "seq": 0, "ms": 0.0},
        {"type": "mask.draft", "id": "a", "seq": 1, "ms": 1.0, "number": 0, "object": 0, "mask_type": "modal",
         "rle": mask.rle, "bbox": mask.bbox, "area": mask.area},
    ]  # fmt: skip
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
