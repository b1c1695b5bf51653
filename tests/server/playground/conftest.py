"""Debian's Chromium, and a page in it that notes all that must not happen."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from tests.server.conftest import Gateway
from tests.server.listening import listening

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 60_000.0  # milliseconds; a page that takes longer hangs


@dataclass
class Watched:
    """A page, the requests it made to other hosts, and what its console complained of."""

    page: Page
    host: str
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def see_request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("blob", "data") and url.netloc != self.host:
            self.elsewhere.append(request.url)

    def see_console(self, message: ConsoleMessage) -> None:
        expected = message.text.startswith(
            "Failed to load resource"
        )  # the browser's note of every 4xx and 5xx
        if message.type in ("error", "warning") and not expected:
            self.complaints.append(message.text)

    def check(self) -> None:
        """Nothing went elsewhere, no policy was violated, no script failed."""
        assert self.elsewhere == []
        assert self.complaints == []


class OpenPage(Protocol):
    """Opens a path of the server at `url`; further arguments are those of a browser's context."""

    def __call__(self, url: str, path: str = "/", **context: Any) -> AbstractAsyncContextManager[Watched]: ...


async def ready(page: Page) -> None:
    """The first sample is there and could be asked about."""
    await page.locator("#run:enabled").wait_for()


async def answered(page: Page) -> None:
    """The request that was just begun has ended, with an answer."""
    await page.locator("#run:enabled").wait_for()
    await page.locator("#timings-section").wait_for()


@pytest.fixture
async def url(gateway: Gateway) -> AsyncIterator[str]:
    async with listening(gateway.app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        yield await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture
def open_page(browser: Browser) -> OpenPage:
    """Opens pages that are checked when they are left."""

    @asynccontextmanager
    async def opened(url: str, path: str = "/", **context: Any) -> AsyncIterator[Watched]:
        async with await browser.new_context(**context) as window:
            page = await window.new_page()
            page.set_default_timeout(PATIENCE)
            watched = Watched(page, urlsplit(url).netloc)
            page.on("request", watched.see_request)
            page.on("console", watched.see_console)
            page.on("pageerror", lambda error: watched.complaints.append(str(error)))
            await page.goto(url + path)
            yield watched
            watched.check()

    return opened
