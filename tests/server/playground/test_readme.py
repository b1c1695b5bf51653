"""The README's WebSocket examples, as they stand there, on a gateway whose language model is a stand-in."""

from __future__ import annotations

import asyncio
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.server.conftest import Gateway, photo
from tests.server.listening import listening
from tests.server.playground.conftest import OpenPage

README = Path(__file__).parents[3] / "README.md"
PATIENCE = 60.0
WRITTEN = "ws://127.0.0.1:8000"
EVENTS = ["accepted", *["reasoning.delta"] * 3, "decision", "mask", "done"]
RUN_IN_A_PAGE = """async () => {
  const file = await (await fetch("/samples/modal.png")).blob();
  const told = [];
  const console = { log: ({ type }) => told.push(type) };
  EXAMPLE
  while (!told.includes("done")) await new Promise((resume) => setTimeout(resume, 20));
  return told;
}"""


def example(language: str, port: int) -> str:
    """The block in `language` that opens a WebSocket, to be run on another port."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    [block] = [block for block in blocks if WRITTEN in block]
    return str(block).replace(WRITTEN, f"ws://127.0.0.1:{port}")


async def test_the_websocket_example_in_javascript(gateway: Gateway, open_page: OpenPage) -> None:
    async with listening(gateway.app) as port, open_page(f"http://127.0.0.1:{port}", "/docs") as watched:
        async with asyncio.timeout(PATIENCE):
            told = await watched.page.evaluate(RUN_IN_A_PAGE.replace("EXAMPLE", example("js", port)))
    assert told == EVENTS


async def test_the_websocket_example_in_python(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(photo())
    told: list[str] = []
    names: dict[str, Any] = {"websockets": websockets, "json": json, "Path": Path}
    names["print"] = lambda type, text: told.append(type)
    async with listening(gateway.app) as port:
        exec("async def run():\n" + textwrap.indent(example("python", port), "    "), names)
        async with asyncio.timeout(PATIENCE):
            await names["run"]()
    assert told == EVENTS
