"""The vLLM servers as children of this process: started, awaited, restarted, ended with it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Literal, Self

from engines.errors import BackendUnavailable, EngineError, MllmUnavailable
from engines.mllm.leash import leashed
from engines.mllm.role import VllmRole
from engines.mllm.server_log import ServerLog
from engines.mllm.tap.message import SOCKET
from engines.mllm.vllm_config import (
    Pooled,
    Role,
    VllmConfig,
    arguments,
    environment,
    installed_device,
    yielding,
)
from engines.mllm.warm_up import warm_up

Stage = Literal["stopped", "loading", "warming", "ready", "waiting"]
log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""How long vLLM may take to end by itself before it is killed."""
FIRST_PAUSE, LONGEST_PAUSE, STABLE_SECONDS = 1.0, 60.0, 120.0
POLL_SECONDS = 0.25
SOCKETS = "VLLM_RPC_BASE_PATH"
"""The variable that tells vLLM where to make the sockets between its processes, which it does not take away."""
WARM_UP_SECONDS = 180.0
COMPILED = {
    True: "a compiled model: its first start takes longer",
    False: "its model uncompiled: R2SM_VLLM__COMPILE says when it is compiled",
}


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server: `seconds` is how long it has been in this stage; `detail` is why it last ended, if it did."""

    role: Role
    stage: Stage
    seconds: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and with which environment."""

    arguments: Sequence[str]
    environment: dict[str, str]


class VllmServer:
    """One child process that is started again, after a growing pause, whenever it ends."""

    def __init__(
        self,
        role: Role,
        url: str,
        command: Command,
        log_file: Path | None,
        changed: asyncio.Event,
        pooled: Pooled = "last",
    ) -> None:
        self.role: Role = role
        self._pooled: Pooled = pooled
        self.url = url
        self._command = command
        self._log_file = log_file
        self._changed = changed
        self._stage: Stage = "stopped"
        self._since = 0.0
        self._task: asyncio.Task[None] | None = None
        self.detail = ""
        """Why the server last ended, with the last lines of its log; empty once it is ready."""

    @property
    def status(self) -> ServerStatus:
        """Where the server stands now."""
        return ServerStatus(self.role, self._stage, time.monotonic() - self._since, self.detail)

    def start(self) -> None:
        """Begin to run and watch the server; returns at once."""
        self._task = asyncio.create_task(self._keep_running(), name=f"vllm-{self.role}")

    async def stop(self) -> None:
        """End the server and everything it started; safe at any time, also when it never started."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._enter("stopped")

    async def _keep_running(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                self.detail = await self._run_once()
            except OSError as fault:
                self.detail = f"could not be started: {fault}"
            except Exception as fault:
                log.exception("vLLM (%s) could not be watched", self.role)
                self.detail = f"could not be watched: {type(fault).__name__}: {fault}"
            log.error("vLLM (%s) %s", self.role, self.detail)
            if time.monotonic() - began > STABLE_SECONDS:
                pause = FIRST_PAUSE
            self._enter("waiting")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _run_once(self) -> str:
        """Run the server until it ends; returns why. The sockets that it leaves behind go with their folder."""
        with TemporaryDirectory(prefix="r2sm-vllm-", ignore_cleanup_errors=True) as sockets:
            environment = {SOCKETS: sockets, **self._command.environment}
            return await self._run(Command(self._command.arguments, environment))

    async def _run(self, command: Command) -> str:
        self._enter("loading")
        output = ServerLog(self.role, self._log_file)
        process, printed = await _spawn(command)
        ended = asyncio.create_task(_end_of(process))
        forwarded = asyncio.create_task(output.follow(printed))
        ready = asyncio.create_task(self._become_ready())
        try:
            await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
            await asyncio.wait({ended, forwarded})  # unlike `await ended`, leaves them running when cancelled
            return "\n".join([f"ended with status {ended.result()}", *output.tail])
        except EngineError as fault:
            return f"did not pass its warm-up: {fault}"
        finally:
            ready.cancel()
            output.ending = True
            with suppress(ProcessLookupError):
                process.terminate()
            await asyncio.gather(ready, ended, forwarded, return_exceptions=True)

    async def _become_ready(self) -> None:
        role = VllmRole(self.role, self.url)
        try:
            while not (await role.probe()).well:  # noqa: ASYNC110  # vLLM does not tell, it must be asked
                await asyncio.sleep(POLL_SECONDS)
            self._enter("warming")
            await warm_up(role, timeout=WARM_UP_SECONDS, pooled=self._pooled)
        finally:
            await role.aclose()
        self.detail = ""
        self._enter("ready")

    def _enter(self, stage: Stage) -> None:
        self._stage, self._since = stage, time.monotonic()
        self._changed.set()


class VllmServers:
    """The servers of a model's `roles` side by side, on the same weights: a ``reason`` and a ``concentrate`` server.

    Their URLs are known from the beginning. Use it as an async context manager, or call `start` and `stop`.
    Both end with this process, whatever way it ends. The event loop must run in a thread that lives as long as
    they should.
    """

    def __init__(
        self,
        config: VllmConfig,
        model: Path,
        log_dir: Path | None = None,
        roles: Sequence[Role] = ("reason", "concentrate"),
        pooled: Pooled = "last",
        inbox: Path | None = None,
        *,
        sees: bool = True,
    ) -> None:
        """`pooled` is whose state a concentrate server gives. With `inbox`, the address of one, a reason server sends
        its own there. `sees` is whether they run the image tower, and are not sent features.

        Raises BackendUnavailable if vLLM is not installed, if nothing can compile a model that should be compiled, or
        if states should be sent, or tokens guessed, by a vLLM that cannot.
        """
        device = installed_device()
        if inbox is not None and device != "cpu":
            raise BackendUnavailable("concentrate=tap: only vLLM's CPU build is tapped so far")
        if config.speculative_tokens and device != "cpu":
            raise BackendUnavailable("vllm.speculative_tokens: only vLLM's CPU build guesses so far")
        config = config.for_roles(len(roles), device)
        if device == "cpu" and "reason" in roles:
            log.info("vLLM (reason) runs %s", COMPILED[config.compile is True])
        self._changed = asyncio.Event()
        ports = dict(
            zip(("reason", "concentrate"), _ports(config.reason_port, config.concentrate_port), strict=True)
        )

        line = {SOCKET: str(inbox)} if inbox is not None else {}

        def server(role: Role) -> VllmServer:
            port = ports[role]
            command = Command(
                [
                    *yielding(role, device, sees=sees),
                    sys.executable,
                    *arguments(
                        config, role, device, model, port, pooled, tapped=inbox is not None, sees=sees
                    ),
                ],
                environment(config, role, device, {**os.environ, **line}, pooled),
            )
            file = log_dir / f"vllm-{role}.log" if log_dir is not None else None
            return VllmServer(role, f"http://127.0.0.1:{port}", command, file, self._changed, pooled)

        self._servers = tuple(server(role) for role in roles)
        self.urls = {server.role: server.url for server in self._servers}

    @property
    def reason_url(self) -> str:
        """Where the reason server is."""
        return self.urls["reason"]

    @property
    def concentrate_url(self) -> str:
        """Where the concentrate server is."""
        return self.urls["concentrate"]

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def start(self) -> None:
        """Begin to start the servers side by side; returns at once."""
        for server in self._servers:
            server.start()

    async def wait_ready(
        self, timeout: float, progress: Callable[[tuple[ServerStatus, ...]], None] | None = None
    ) -> None:
        """Wait until the servers are healthy and warm; `progress` hears of it at least once a second.

        Raises MllmUnavailable, with the last lines of the log, when a server ends before that, or after
        `timeout` seconds. The servers go on being restarted all the same.
        """
        end = time.monotonic() + timeout
        while True:
            self._changed.clear()
            status = self.status()
            if progress is not None:
                progress(status)
            if all(one.stage == "ready" for one in status):
                return
            for one in status:
                if one.detail:
                    raise MllmUnavailable(f"vLLM ({one.role}) {one.detail}")
            if time.monotonic() >= end:
                raise MllmUnavailable(f"vLLM was not ready within {timeout:.0f} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(1.0, end - time.monotonic()))

    def status(self) -> tuple[ServerStatus, ...]:
        """Where each server stands."""
        return tuple(server.status for server in self._servers)

    async def stop(self) -> None:
        """End the servers and everything they started; safe at any time."""
        await asyncio.gather(*(server.stop() for server in self._servers))


async def _spawn(command: Command) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
    """The command on a leash, and what it prints.

    The pipe is made here, not by asyncio, whose `wait` would last until everybody has closed their end.
    """
    reading, writing = os.pipe()
    printed = asyncio.StreamReader()
    pipe = os.fdopen(reading, "rb", buffering=0)
    try:
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(printed), pipe
        )
        process = await asyncio.create_subprocess_exec(
            *leashed(command.arguments, GRACE_SECONDS),
            env=command.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=writing,
            stderr=asyncio.subprocess.STDOUT,
        )
    finally:
        os.close(writing)  # the reader ends, and closes its side, when the command's side is closed too
    return process, printed


async def _end_of(process: asyncio.subprocess.Process) -> int:
    """The exit status of a leash; what one that was itself killed left in its process group is killed too."""
    status = await process.wait()
    if status < 0:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return status


def _ports(*wanted: int) -> tuple[int, ...]:
    """The ports wanted, with a free one, each its own, in place of every 0."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in wanted]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return tuple(port or one.getsockname()[1] for port, one in zip(wanted, sockets, strict=True))
