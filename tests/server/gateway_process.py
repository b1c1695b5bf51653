"""A gateway on stand-in engines in a process of its own, with its log."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

SCRIPT = Path(__file__).with_name("stand_in_gateway.py")
ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # cores are shared


@dataclass
class Child:
    """A gateway in a process of its own; `log` grows as it writes it."""

    process: asyncio.subprocess.Process
    log: list[str]
    reading: asyncio.Task[None]

    async def said(self, words: str) -> str:
        """The first line of its log with these words."""
        async with asyncio.timeout(PATIENCE):
            while not (found := [line for line in self.log if words in line]):
                assert self.process.returncode is None, self.log
                await asyncio.sleep(0.02)
        return found[0]


@asynccontextmanager
async def gateway(seconds: float, *options: str) -> AsyncIterator[tuple[Child, httpx.AsyncClient]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SCRIPT), str(seconds), "serve", "--port", "0", *options),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    log: list[str] = []

    async def read() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            log.append(line.decode().strip())  # noqa: PERF401

    child = Child(process, log, asyncio.create_task(read()))
    try:
        url = re.search(r"http://\S+", await child.said("listens at"))
        assert url is not None
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url[0], timeout=PATIENCE, limits=limits) as http:
            await child.said("ready: a warm-up")
            yield child, http
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await child.reading
