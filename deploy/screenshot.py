"""Takes the README's picture of the playground, on the bundle that ships; ``make screenshot`` runs this.

Needs Debian's Chromium. Serves the bundle, or uses a server that runs already: ``--url``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from PIL import Image
from playwright.async_api import ViewportSize, async_playwright

from server.commands.serve import START_SECONDS
from server.running import run_gateway
from server.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "tests" / "server" / "playground" / "playground.webp"
SIZE: ViewportSize = {"width": 1240, "height": 1080}
QUALITY = 90  # of the WebP; a PNG is too large for a repository
ANSWER_MS = 120_000


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", help="a server that is ready")
    parser.add_argument("--sample", default="amodal", help="which of the sample scenes")
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    asyncio.run(take(arguments.url, arguments.sample, arguments.out))
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size / 1000:.0f} kB)")


async def take(url: str | None, sample: str, out: Path) -> None:
    """Ask about a sample in a real browser, and keep what it shows."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no Chromium is installed (apt-get install chromium)")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with serving(url) as there, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = await browser.new_page(viewport=SIZE)
        await page.goto(there)
        await page.locator(f"button[data-url='/samples/{sample}.png']").click()
        await page.locator("#run:enabled").click()
        await page.locator("#timings-section").wait_for(timeout=ANSWER_MS)
        await page.locator("#run").blur()
        taken = await page.screenshot(animations="disabled")
    Image.open(io.BytesIO(taken)).convert("RGB").save(out, "WEBP", quality=QUALITY, method=6)


@contextlib.asynccontextmanager
async def serving(url: str | None) -> AsyncIterator[str]:
    """`url`, or that of a gateway which serves the bundle that ships."""
    if url is not None:
        yield url
        return
    async with run_gateway(Settings(port=0)) as gateway:
        await gateway.wait_ready(START_SECONDS)
        yield gateway.url


if __name__ == "__main__":
    main()
