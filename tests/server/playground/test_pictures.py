"""Ways of giving the playground a picture, and what becomes of those that come to nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import FilePayload, Route, expect

from server.client import SegmentClient
from tests.server.conftest import photo
from tests.server.playground.conftest import OpenPage, answered, ready

BLIND = (
    "() => { window.kept = createImageBitmap; window.createImageBitmap = () => Promise.reject(new Error()); }"
)
SEEING = "() => { window.createImageBitmap = kept; }"
EMPTY = """() => {
  const { width, height } = document.getElementById("canvas");
  const { data } = document.getElementById("canvas").getContext("2d").getImageData(0, 0, width, height);
  return data.every((value) => value === 0);
}"""
GIVE = """([type, texts, files]) => {
  const held = new DataTransfer();
  for (const text of texts) held.setData("text/plain", text);
  for (const file of files) held.items.add(new File(["no picture"], file, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true, dataTransfer: held, clipboardData: held };
  const event = type === "paste" ? new ClipboardEvent(type, options) : new DragEvent(type, options);
  return !document.getElementById("prompt").dispatchEvent(event);
}"""


def file(**options: Any) -> FilePayload:
    """A picture as it is picked."""
    return {"name": "a.webp", "mimeType": "image/webp", "buffer": photo(format="WEBP", **options)}


async def test_masks_are_drawn_over_their_own_picture_only(url: str, open_page: OpenPage) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        alert, canvas = page.get_by_role("alert"), page.locator("#canvas")
        await page.evaluate(BLIND)
        await page.locator("#file").set_input_files(file())
        await expect(alert).to_contain_text("This picture cannot be shown")
        await page.evaluate(SEEING)
        await page.get_by_role("button", name="Segment").click()
        await answered(page)
        await expect(alert).to_contain_text("This picture cannot be shown")
        await expect(canvas).to_have_attribute("aria-label", "No picture yet")
        assert await page.evaluate(EMPTY)
        await page.locator("#file").set_input_files(file(exif=turned))
        await expect(canvas).to_have_attribute("aria-label", re.compile("120 by 80 pixels"))
        await expect(alert).to_be_hidden()
        await page.get_by_role("button", name="Segment").click()
        await answered(page)
        await expect(alert).to_contain_text("the server reads 80 by 120 pixels")
        await expect(canvas).to_have_attribute("aria-label", re.compile("no mask over it"))
        await expect(page.get_by_role("radio", name="Amodal")).to_be_disabled()
        await expect(page.get_by_role("button", name="Mask as PNG")).to_be_enabled()


async def test_an_upload_ends_with_its_run_or_its_picture(url: str, open_page: OpenPage) -> None:
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)

        async def hang(route: Route) -> None:
            """Never answered."""

        await page.route("**/v1/images", hang)
        await page.locator("#file").set_input_files(file())
        await page.get_by_role("button", name="Segment").click()
        async with page.expect_event("requestfailed"):
            await page.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_role("status")).to_have_text("Cancelled.")
        await page.locator("#file").set_input_files(file())
        async with page.expect_event("requestfailed"):
            await page.locator("#samples button").first.click()
        await expect(page.locator("#samples button").first).to_have_attribute("aria-pressed", "true")
        await expect(page.get_by_role("status")).to_have_text("")
        await expect(page.get_by_role("alert")).to_be_hidden()


async def test_a_file_that_changes_is_asked_for_again(url: str, open_page: OpenPage, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(photo())
    async with open_page(url) as watched:
        page = watched.page
        await ready(page)
        await page.locator("#file").set_input_files(path)
        await page.get_by_role("button", name="Segment").click()
        await answered(page)
        async with SegmentClient(url) as client:
            await client.delete((await client.upload(photo())).id)
        path.write_bytes(photo((60, 40)))
        os.utime(path, (1, 1))
        await page.get_by_role("button", name="Segment").click()
        await expect(page.get_by_role("alert")).to_contain_text("The picture's file cannot be read")


async def test_text_stays_text(url: str, open_page: OpenPage) -> None:
    async with open_page(url) as watched:
        page = watched.page

        async def late(route: Route) -> None:
            await page.locator("#prompt").fill("typed before")
            await route.continue_()

        await page.route("**/samples", late)
        await page.reload()
        await ready(page)
        await expect(page.locator("#prompt")).to_have_value("typed before")
        sample = page.locator("#samples button[aria-pressed=true]")
        for type in ("dragover", "drop", "paste"):
            assert not await page.evaluate(GIVE, [type, ["a mug"], []]), "left to the browser"
        assert not await page.evaluate(GIVE, ["paste", ["a table"], ["table.png"]])
        await expect(sample).to_have_count(1)
        assert await page.evaluate(GIVE, ["drop", [], ["a.png", "b.png"]])
        await expect(page.get_by_role("status")).to_have_text("Only the first of the 2 files is used.")
        await expect(sample).to_have_count(0)
        assert await page.evaluate(GIVE, ["paste", [], ["a.png"]])
