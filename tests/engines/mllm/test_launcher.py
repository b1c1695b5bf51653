"""The launcher on a cheap stand-in for vLLM: readiness, restarts, and nothing left behind however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name

import pytest

from engines.errors import BackendUnavailable, MllmUnavailable
from engines.mllm import launcher, leash
from engines.mllm.launcher import Command, VllmServer, VllmServers
from engines.mllm.tap.message import SOCKET
from engines.mllm.vllm_config import VllmConfig
from tests.waiting import until

STAND_IN = Path(__file__).parent / "stand_in_server.py"
LEASH = str(leash.__file__)
ROOT = Path(__file__).parents[3]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def listed(pid: int) -> bool:
    """Whether the process exists, if only as one that nobody has waited for."""
    return Path(f"/proc/{pid}").exists()


def wait_for(what: Callable[[], bool], seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return False


def pids_in(file: Path) -> list[int]:
    assert wait_for(lambda: file.exists() and len(file.read_text().split()) == 2)
    return [int(pid) for pid in file.read_text().split()]


def processes_of(folder: Path) -> list[int]:
    """Those whose command line names the folder: a stand-in's, its leash's, and those that it has forked."""
    found = list[int]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stand_in(folder: Path, mode: str = "serve", log_file: Path | None = None) -> VllmServer:
    port = free_port()
    command = [sys.executable, str(STAND_IN), str(port), str(folder / "pids"), mode]
    url = f"http://127.0.0.1:{port}"
    return VllmServer("concentrate", url, Command(command, dict(os.environ)), log_file, asyncio.Event())


async def reach(server: VllmServer, stage: str) -> None:
    async with asyncio.timeout(30):
        while server.status.stage != stage:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_server_becomes_ready_and_leaves_nothing_when_stopped(tmp_path: Path) -> None:
    server = stand_in(tmp_path, log_file=tmp_path / "logs" / "vllm.log")
    server.start()
    await reach(server, "ready")
    pids = pids_in(tmp_path / "pids")
    assert all(alive(pid) for pid in pids)
    leash_pid = os.getpgid(pids[0])
    await server.stop()
    assert not any(alive(pid) for pid in pids)
    assert not listed(leash_pid), "stop waits for the leash too"
    assert server.status.stage == "stopped"
    first_line, sockets, *_ = (tmp_path / "logs" / "vllm.log").read_text().splitlines()
    assert first_line == "WARNING a long line " + "x" * 200_000
    assert not os.path.exists(sockets.removeprefix("sockets in "))  # noqa: ASYNC240


@pytest.mark.parametrize("begun", [False, True])
async def test_stop_is_safe_before_start_during_loading_and_twice(begun: bool, tmp_path: Path) -> None:
    server, pids = stand_in(tmp_path), tmp_path / "pids"
    await server.stop()
    server.start()
    if begun:
        await until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        assert len(processes_of(tmp_path)) == 3, "a leash, the server, and what it has started"
    else:
        await asyncio.sleep(0.05)
    await server.stop()
    await server.stop()
    assert processes_of(tmp_path) == []


async def test_a_server_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "FIRST_PAUSE", 0.05)
    server = stand_in(tmp_path)
    server.start()
    await reach(server, "ready")
    first = pids_in(tmp_path / "pids")
    os.kill(first[0], signal.SIGKILL)
    await reach(server, "waiting")
    assert not alive(first[1]), "what the dead server had started must go with it"
    await reach(server, "ready")
    second = pids_in(tmp_path / "pids")
    assert second[0] != first[0]
    assert server.detail == ""
    await server.stop()


async def test_a_fault_of_the_watching_starts_the_server_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launcher, "FIRST_PAUSE", 0.05)
    server, first = stand_in(tmp_path), True
    become_ready = VllmServer._become_ready

    async def fail_once(self: VllmServer) -> None:
        nonlocal first
        if first:
            first = False
            raise KeyError("what vLLM never says")
        await become_ready(self)

    monkeypatch.setattr(VllmServer, "_become_ready", fail_once)
    server.start()
    await reach(server, "ready")
    assert "could not be watched" in caplog.text
    await server.stop()


async def test_a_leash_that_is_killed_takes_its_group_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "FIRST_PAUSE", 0.05)
    server = stand_in(tmp_path, "obedient")
    server.start()
    await reach(server, "ready")
    pids = pids_in(tmp_path / "pids")
    os.kill(os.getpgid(pids[0]), signal.SIGKILL)
    await reach(server, "waiting")
    assert not any(alive(pid) for pid in pids)
    await reach(server, "ready")
    await server.stop()


async def test_pauses_between_restarts_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds < launcher.FIRST_PAUSE:  # polls, and whatever else runs on this loop
            await sleep(seconds)
            return
        pauses.append(seconds)
        await sleep(0.0 if len(pauses) < 4 else 60.0)

    server = stand_in(tmp_path, "crash")
    monkeypatch.setattr(asyncio, "sleep", note)
    server.start()
    async with asyncio.timeout(30):
        while len(pauses) < 4:
            await sleep(0.02)
    await server.stop()
    assert pauses == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("mode", "words"), [("crash", r"status 3\n(.*\n)*.*no room for the model"), ("sick", r"warm-up.*500")]
)
async def test_a_server_that_cannot_start_is_named_with_its_last_words(
    tmp_path: Path, mode: str, words: str
) -> None:
    servers = VllmServers(VllmConfig(), tmp_path)
    server = stand_in(tmp_path, mode)
    servers._servers = (server, stand_in(tmp_path))  # the real command would load a model
    server.start()
    with pytest.raises(MllmUnavailable, match=words):
        await servers.wait_ready(30.0)
    await servers.stop()


def test_only_the_cpu_build_is_tapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "installed_device", lambda: "cuda")
    with pytest.raises(BackendUnavailable, match="concentrate=tap: only vLLM's CPU build"):
        VllmServers(VllmConfig(), tmp_path, roles=("reason",), inbox=tmp_path / "inbox")


def test_only_the_cpu_build_guesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "installed_device", lambda: "cuda")
    with pytest.raises(BackendUnavailable, match=r"vllm\.speculative_tokens: only vLLM's CPU build"):
        VllmServers(VllmConfig(speculative_tokens=4), tmp_path)


async def test_a_tapped_server_is_told_where_the_inbox_is(tmp_path: Path) -> None:
    servers = VllmServers(VllmConfig(), tmp_path, roles=("reason",), inbox=tmp_path / "inbox")
    [command] = [server._command for server in servers._servers]
    assert command.environment[SOCKET] == str(tmp_path / "inbox")
    worker = command.arguments[list(command.arguments).index("--worker-cls") + 1]
    assert resolve_name(worker).__name__ == "Worker"
    plain = VllmServers(VllmConfig(), tmp_path)
    assert not any("--worker-cls" in server._command.arguments for server in plain._servers)


async def test_waiting_ends_in_time_and_reports_progress(tmp_path: Path) -> None:
    servers = VllmServers(VllmConfig(reason_port=4321), tmp_path)
    assert servers.reason_url == "http://127.0.0.1:4321"
    heard: list[str] = []
    with pytest.raises(MllmUnavailable, match="not ready within"):
        await servers.wait_ready(0.1, lambda status: heard.append(status[0].stage))
    assert heard
    assert set(heard) == {"stopped"}


PARENT = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from engines.mllm import launcher
    from engines.mllm.launcher import Command, VllmServer

    launcher.GRACE_SECONDS = 1.0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts with &

    async def main():
        command = Command([sys.executable, *sys.argv[2:]], dict(os.environ))
        server = VllmServer("concentrate", f"http://127.0.0.1:{sys.argv[3]}", command, None, asyncio.Event())
        server.start()
        while server.status.stage != "ready":
            await asyncio.sleep(0.02)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if sys.argv[1] == "exit":
            os._exit(0)
        if sys.argv[1] == "raise":
            raise RuntimeError("on purpose")
        await asyncio.sleep(600)

    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("end", "mode"),
    [
        ("SIGKILL", "serve"),
        ("SIGKILL", "stubborn"),
        ("SIGTERM", "serve"),
        ("SIGINT", "serve"),
        ("exit", "serve"),
        ("raise", "serve"),
    ],
)
def test_nothing_outlives_the_parent(tmp_path: Path, end: str, mode: str) -> None:
    arguments = [str(STAND_IN), str(free_port()), str(tmp_path / "pids"), mode]
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), end, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    pids = pids_in(tmp_path / "pids")
    assert all(alive(pid) for pid in pids)
    if end.startswith("SIG"):
        parent.send_signal(getattr(signal, end))
    parent.communicate("end\n", timeout=30)
    assert wait_for(lambda: not any(alive(pid) for pid in pids))


def on_a_leash(*command: str, grace: float = 5.0) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-I", LEASH, str(os.getpid()), str(grace)]
    return subprocess.run([*start, *command], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)])
def test_the_leash_ends_as_its_command_does(script: str, status: int) -> None:
    assert on_a_leash("sh", "-c", script).returncode == status


def test_the_leash_takes_what_the_command_left_behind() -> None:
    result = on_a_leash("sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!")
    assert result.returncode == 0
    assert not alive(int(result.stdout))


def test_the_command_gets_ordinary_signals() -> None:
    script = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    assert on_a_leash(sys.executable, "-c", script).stdout == "set()\n"


def test_a_leash_whose_parent_is_gone_already_starts_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    start = [sys.executable, "-I", LEASH, "1", "5", "touch", str(trace)]
    assert subprocess.run(start, check=False, timeout=30).returncode == 128 + signal.SIGTERM
    assert not trace.exists()
