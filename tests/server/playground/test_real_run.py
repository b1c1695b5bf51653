"""A whole run in Chromium on real vLLM and a real vision runtime: stream, masks, gauge, downloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from playwright.async_api import Download, Page, expect

from engines.vision import masks
from server.running import run_gateway
from server.settings import Settings
from tests.server.playground.conftest import OpenPage
from tests.tiny_bundle import build_tiny_bundle

if TYPE_CHECKING:
    from tests.vllm_fixture import ServedModel

READY_SECONDS = 240.0
ANSWER_MS = 120_000


@pytest.mark.vllm
async def test_the_playground_on_real_engines(
    served_model: ServedModel, open_page: OpenPage, tmp_path: Path
) -> None:
    settings = Settings(
        bundle=served_model.bundle or build_tiny_bundle(tmp_path / "bundle", served_model.path),
        port=0,
        reason_url=served_model.reason_url,
        concentrate_url=served_model.concentrate_url,
    )
    async with run_gateway(settings) as gateway:
        await gateway.wait_ready(READY_SECONDS)
        async with open_page(gateway.url, accept_downloads=True) as watched:
            page = watched.page
            await page.locator("#run:enabled").wait_for()
            await page.locator("summary").filter(has_text="Options").click()
            await page.locator("#objects").select_option("1")  # whatever the model thinks of it
            await page.get_by_role("button", name="Segment").click()
            await page.locator("#timings-section").wait_for(timeout=ANSWER_MS)
            assert (await page.locator("#reasoning-text").text_content() or "").strip()
            certainty = await page.get_by_role("meter").get_attribute("aria-valuenow")
            assert 0 <= int(certainty or -1) <= 100
            await expect(page.get_by_role("status")).to_contain_text("One object")
            await page.get_by_role("radio", name="Amodal").check()
            picture = np.asarray(Image.open(await _saved(page, "Mask as PNG", tmp_path / "mask.png")))[..., 0]
            content = json.loads((await _saved(page, "RLE as JSON", tmp_path / "masks.json")).read_text())
            by_type = {mask["mask_type"]: mask for mask in content["masks"]}
            assert set(by_type) == {"modal", "amodal"}
            assert ((picture == 255) == masks.decode(by_type["amodal"]["rle"])).all()
            assert set(np.unique(picture)) <= {0, 255}


async def _saved(page: Page, button: str, path: Path) -> Path:
    """The file that a button saves."""
    async with page.expect_download() as waiting:
        await page.get_by_role("button", name=button).click()
    download: Download = await waiting.value
    await download.save_as(path)
    return path
