"""The scripts' own arithmetic, run where it will run: in Chromium, against pycocotools and a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from playwright.async_api import Browser, Page

from engines.vision import masks
from server.routes.playground import add_pages
from tests.server.listening import listening

IMPORT = "async ([module, name, values]) => (await import(`/static/js/${module}.js`))[name](...values)"
TIMINGS = {
    "queue": 1.0,
    "image": 4.0,
    "encode": 30.0,
    "ttft": 6.0,
    "reason": 50.0,
    "decide": 10.0,
    "total": 80.0,
}


@pytest.fixture(scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    app = FastAPI()
    add_pages(app)
    async with listening(app) as port, await browser.new_context() as window:
        opened = await window.new_page()
        await opened.goto(f"http://127.0.0.1:{port}/static/icon.svg")
        yield opened


async def call(page: Page, module: str, name: str, *values: Any) -> Any:
    """What a module's exported function returns."""
    return await page.evaluate(IMPORT, [module, name, list(values)])


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 64), (1200, 800)])
async def test_masks_are_decoded_as_pycocotools_does(page: Page, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[0])
    coarse = rng.random((max(1, size[0] // 7), max(1, size[1] // 7))) < 0.4
    blocks = np.kron(coarse, np.ones((8, 8)))[: size[0], : size[1]] > 0
    for mask in (np.pad(blocks, [(0, side - has) for side, has in zip(size, blocks.shape, strict=True)]),
                 rng.random(size) < 0.5, np.zeros(size, bool), np.ones(size, bool)):  # fmt: skip
        rle = masks.encode(mask).rle
        decoded = await page.evaluate(
            "async (rle) => { const { decode } = await import('/static/js/rle.js');"
            " const { width, height, area, pixels } = decode(rle);"
            " return [width, height, area, Array.from(pixels).join('')]; }",
            rle,
        )
        bits = "".join("1" if bit else "0" for bit in mask.reshape(-1))
        assert decoded == [size[1], size[0], int(mask.sum()), bits]


async def test_the_bar_accounts_for_the_whole_time(page: Page) -> None:
    stages = await call(page, "timings", "inOrder", TIMINGS)
    assert [stage["name"] for stage in stages] == ["queue", "image", "reason", "decide", "rest"]
    assert sum(stage["ms"] for stage in stages) == TIMINGS["total"]
    assert await call(page, "timings", "told", 1234.4) == "1,234 ms"


async def test_a_share_is_never_rounded_up_to_certainty(page: Page) -> None:
    said = [await call(page, "gauge", "percent", share) for share in (1, 0.99999, 0.995, 0.5)]
    assert said == ["100 %", "> 99.9 %", "99.5 %", "50 %"]


OPTIONS = {"prompt": 'the cat\'s "left" ear; $HOME `x` \\ ünï', "objects": 2, "include": ["heatmap"]}


@pytest.mark.parametrize("with_key", [False, True])
async def test_what_is_copied_for_a_shell_asks_the_same(page: Page, with_key: bool) -> None:
    command = await call(page, "snippets", "asCurl", "http://h:1", OPTIONS, "a;b's.png", with_key)
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:3] == ["curl", "-s", "http://h:1/v1/segment"]
    assert 'image=@"a;b\'s.png"' in words
    [form] = [word for word in words if word.startswith("request=")]
    assert json.loads(form.removeprefix("request=")) == OPTIONS
    assert ("Authorization: Bearer $R2SM_API_KEY" in words) == with_key


@pytest.mark.parametrize("with_key", [False, True])
async def test_what_is_copied_for_python_asks_the_same(
    page: Page, with_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def post(url: str, **content: Any) -> None:
        asked.update(content, url=url)
        raise InterruptedError

    monkeypatch.setattr("httpx.post", post)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: str(path).encode())
    monkeypatch.setenv("R2SM_API_KEY", "secret")
    program = await call(page, "snippets", "asPython", "http://h:1", OPTIONS, "a.png", with_key)
    with pytest.raises(InterruptedError):
        exec(compile(program, "copied", "exec"), {})
    assert asked["url"] == "http://h:1/v1/segment"
    assert asked["files"] == {"image": b"a.png"}
    assert json.loads(asked["data"]["request"]) == OPTIONS
    assert asked.get("headers") == ({"Authorization": "Bearer secret"} if with_key else None)
