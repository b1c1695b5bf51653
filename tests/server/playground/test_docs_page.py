"""The reference page in a real Chromium: all of the OpenAPI document is on it, and nothing comes from elsewhere."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from server.errors import URN
from server.problem_examples import all_kinds
from tests.server.conftest import Gateway
from tests.server.listening import listening
from tests.server.playground.conftest import OpenPage

DEAD_LINKS = "links => links.map(a => a.hash.slice(1)).filter(id => !document.getElementById(id))"


@pytest.mark.parametrize("width", [390, 1280])
async def test_everything_is_on_the_page(gateway: Gateway, open_page: OpenPage, width: int) -> None:
    document = gateway.app.openapi()
    operations = [
        f"{method.upper()}{path}" for path, methods in document["paths"].items() for method in methods
    ]
    schemas = list(document["components"]["schemas"])
    async with listening(gateway.app) as port:
        size = {"width": width, "height": 900}
        async with open_page(f"http://127.0.0.1:{port}", "/docs", viewport=size) as watched:
            page = watched.page
            await page.locator(f"#{schemas[-1].lower()}").wait_for()
            headings = await page.locator("main > section > h2").all_text_contents()
            assert {*operations, *schemas, "WS/v1/segment/stream"} <= set(headings)
            problems = await page.locator("#problems").text_content()
            assert problems is not None
            assert all(URN + kind.slug in problems for kind in all_kinds())
            assert await page.locator("a[href^='#']").evaluate_all(DEAD_LINKS) == []
            assert await page.evaluate("document.documentElement.scrollWidth") == width
            await page.locator("details").first.locator("summary").click()
            await expect(page.locator("details pre").first).to_be_visible()
