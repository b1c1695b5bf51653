"""What the playground says of runs that end otherwise than with a mask, and how it is asked without a mouse."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from playwright.async_api import Page, Route, expect

from engines.vision import masks
from tests.server.conftest import Gateway
from tests.server.playground.conftest import OpenPage, answered, ready

DRAWN = "document.getElementById('canvas').toDataURL()"
FOCUSED = "document.activeElement.id"
BREAK_OFF = """() => {
  const body = new ReadableStream({ pull: (controller) => controller.error(new TypeError("network error")) });
  const real = fetch;
  window.fetch = async (path, options) => (path === "/v1/segment" ? new Response(body) : real(path, options));
}"""
PRESS = """([id, options]) => document.getElementById(id).dispatchEvent(
  new KeyboardEvent("keydown", { bubbles: true, cancelable: true, ...options }))"""
KEPT = "sessionStorage.getItem('r2sm.key')"
NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', { value: undefined })"


async def tell(page: Page, *events: dict[str, Any]) -> None:
    """Let the server's next answers be these events."""
    numbered = [{"id": "a", "seq": seq, "ms": 0.0, **event} for seq, event in enumerate(events)]
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in numbered)

    async def answer(route: Route) -> None:
        await route.fulfill(body=body, content_type="text/event-stream")

    await page.route("**/v1/segment", answer)


def draft() -> dict[str, Any]:
    mask = masks.encode(np.eye(450, 640, dtype=bool))
    found = {"rle": mask.rle, "bbox": mask.bbox, "area": mask.area}
    return {"type": "mask.draft", "number": 0, "object": 0, "mask_type": "modal", **found}


async def test_nothing_stays_of_drafts_where_there_is_no_such_object(url: str, open_page: OpenPage) -> None:
    decision = {"type": "decision", "mask_type": "amodal", "confidence": 0.9, "source": "model", "objects": 0}
    done = {"type": "done", "timings_ms": {"total": 1.0}, "usage": {}}
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        bare = await page.evaluate(DRAWN)
        label = await page.locator("#canvas").get_attribute("aria-label")
        await tell(page, {"type": "accepted"}, draft())
        await page.get_by_role("button", name="Segment").click()
        await expect(page.get_by_role("alert")).to_contain_text("The answer broke off")
        await expect(page.locator("#badge")).to_have_text("Draft 1")
        await expect(page.get_by_role("img", name="a draft of the mask over it")).to_be_visible()
        await tell(
            page,
            {"type": "accepted"},
            draft(),
            decision | {"warnings": ["no one knows", "nor cares"]},
            done,
        )
        await page.get_by_role("button", name="Segment").click()
        await answered(page)
        await expect(page.get_by_role("status")).to_contain_text("No such object")
        await expect(page.get_by_text("Note: no one knows; nor cares.")).to_be_visible()
        await expect(page.locator("#badge")).to_be_hidden()
        assert await page.locator("#canvas").get_attribute("aria-label") == label
        assert await page.evaluate(DRAWN) == bare


async def test_no_failure_is_silent(url: str, open_page: OpenPage) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        await tell(page, {"type": "accepted"}, {"type": "mask", "rle": None})
        await page.get_by_role("button", name="Segment").click()
        await expect(page.get_by_role("alert")).to_contain_text("This page has failed")
        await expect(page.get_by_role("status")).to_have_text("")
        assert watched.complaints, "the console knows more"
        watched.complaints.clear()
        await page.evaluate(BREAK_OFF)
        await page.get_by_role("button", name="Segment").click()
        await expect(page.get_by_role("alert")).to_contain_text("The answer broke off")
        await expect(page.get_by_role("status")).to_have_text("")


async def test_escape_and_the_focus_mean_the_run_only(
    url: str, gateway: Gateway, open_page: OpenPage
) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        gateway.mllm.hanging = {"reason"}
        await page.locator("#run").focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_have_text("Thinking …")
        assert await page.evaluate(FOCUSED) == "cancel"
        await page.get_by_role("button", name="Settings").click()
        await page.keyboard.press("Escape")
        await expect(page.locator("#settings")).to_be_hidden()
        await page.evaluate(PRESS, ["prompt", {"key": "Escape", "isComposing": True}])
        await expect(page.get_by_role("status")).to_have_text("Thinking …")
        await page.locator("#cancel").focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_have_text("Cancelled.")
        assert await page.evaluate(FOCUSED) == "run"


async def test_a_key_is_checked_and_changes_nothing_else(url: str, open_page: OpenPage) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        await page.get_by_text("Options", exact=True).click()
        await page.locator("#objects").select_option("3")
        await page.evaluate("sessionStorage.setItem('r2sm.key', 'ключ')")
        await page.get_by_role("button", name="Segment").click()
        await expect(page.locator("#problem")).to_contain_text("The API key cannot be sent")
        for unfit in ("schlüssel", "two words"):
            await page.get_by_label("API key").fill(unfit)
            await page.get_by_role("button", name="Save").click()
            await expect(page.locator("#api-key-fault")).to_contain_text("ASCII letters")
            assert await page.evaluate(KEPT) == "ключ"
        await page.get_by_label("API key").fill(" secret ")
        async with page.expect_response("**/samples"):
            await page.get_by_role("button", name="Save").click()
        assert await page.evaluate(KEPT) == "secret"
        await expect(page.locator("#problem")).to_be_hidden()
        await expect(page.locator("#samples [aria-pressed=true]")).to_have_count(1)
        await expect(page.locator("#objects")).to_have_value("3")


async def test_points_without_mouse_or_modifier_are_copied(url: str, open_page: OpenPage) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        await page.get_by_role("button", name="Segment").click()
        await answered(page)
        await page.locator("#canvas").focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.locator("#cursor")).to_have_text("336, 225")
        unheeded = await page.evaluate(PRESS, ["canvas", {"key": "ArrowLeft", "altKey": True}])
        assert unheeded, "the browser goes back"
        await expect(page.locator("#cursor")).to_have_text("336, 225")
        await page.get_by_label("not here").check()
        await page.locator("#canvas").click()
        await page.evaluate(NO_CLIPBOARD)
        await page.get_by_role("button", name="Copy as curl").click()
        copied = await page.locator("#snippet-text").input_value()
        assert '"points":[{' in copied
        assert '"label":0' in copied
