"""``r2sm serve`` as a child process: started, awaited, and stopped with everything that it started."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import ValidationError

from engines.mllm import leash
from server.schemas import Problem

HOST = "127.0.0.1"
POLL_SECONDS = 0.5
REPEAT_SECONDS = 10.0  # say what is still missing at least this often
GRACE_SECONDS = 30.0
TAIL_LINES = 20

RUN = "from server.cli import main; main()"

Say = Callable[[str], None]


class ServerDied(Exception):
    """The child ended, or never became ready; the message ends in the last lines of its log."""


@dataclass(frozen=True, slots=True)
class ChildServer:
    """A running server and its URL."""

    url: str
    process: Process

    async def ended(self) -> int:
        """Wait until it ends by itself; its exit code."""
        return await self.process.wait()


@asynccontextmanager
async def child_server(
    port: int, log: Path, say: Say, ready_seconds: float = 600.0
) -> AsyncIterator[ChildServer]:
    """Start ``r2sm serve`` on `port`, give it once it is ready, and stop it on the way out.

    What it prints goes to the file `log`. `say` is told what the server is still waiting for.

    Raises:
        ServerDied: the port is taken, or the server ended or was not ready in time.
    """
    if _taken(port):
        raise ServerDied(f"something else is listening on {HOST}:{port} already")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        command = [sys.executable, "-c", RUN, "serve", "--port", str(port)]
        leashed = [sys.executable, leash.__file__, str(os.getpid()), str(GRACE_SECONDS), *command]
        process = await asyncio.create_subprocess_exec(
            *leashed, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        url = f"http://{HOST}:{port}"
        await _until_ready(process, url, log, say, time.monotonic() + ready_seconds)
        yield ChildServer(url, process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _until_ready(process: Process, url: str, log: Path, say: Say, deadline: float) -> None:
    started, said, said_at = time.monotonic(), "", 0.0
    async with httpx.AsyncClient(base_url=url, timeout=30.0) as http:
        while missing := await _missing(http):
            now = time.monotonic()
            if process.returncode is not None:
                raise ServerDied(f"the server ended with code {process.returncode}\n{_tail(log)}")
            if now > deadline:
                raise ServerDied(f"the server is not ready: {missing}\n{_tail(log)}")
            if missing != said or now > said_at + REPEAT_SECONDS:
                said, said_at = missing, now
                say(f"{now - started:5.0f} s  waiting for {missing}")
            await asyncio.sleep(POLL_SECONDS)
    say(f"{time.monotonic() - started:5.0f} s  ready")


async def _missing(http: httpx.AsyncClient) -> str:
    """What the server still waits for; empty once it is ready."""
    try:
        response = await http.get("/readyz")
    except httpx.TransportError:
        return "the server to start"
    if response.is_success:
        return ""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return f"the server, which answers {response.status_code}"
    return ", ".join(f"{fault.field} ({fault.message})" for fault in problem.errors) or problem.detail


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])
