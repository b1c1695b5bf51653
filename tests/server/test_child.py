"""The child server, with small programs in the place of ``r2sm serve``."""

from __future__ import annotations

import os
import socket
import textwrap
from pathlib import Path

import httpx
import pytest

from server import child
from server.child import ServerDied, child_server

NOT_YET = {
    "type": "t",
    "title": "t",
    "status": 503,
    "detail": "d",
    "instance": "i",
    "errors": [{"field": "mllm.reason", "message": "loading"}],
}
SERVES = f"""
import json, os, subprocess, sys, http.server
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), grandchild.pid, flush=True)
asked = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        body = json.dumps({NOT_YET!r} if asked == 1 else {{"status": "ready"}}).encode()
        self.send_response(503 if asked == 1 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
DIES = "print('loading'); raise SystemExit('no weights')"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lives(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_it_is_given_when_ready_and_stopped_with_all_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(child, "RUN", SERVES)
    said: list[str] = []
    log = tmp_path / "deep" / "serve.log"
    async with child_server(free_port(), log, said.append) as server:
        async with httpx.AsyncClient() as http:
            assert (await http.get(server.url)).status_code == 200
        started = [int(word) for word in log.read_text().splitlines()[0].split()]
        assert all(lives(pid) for pid in started)
    assert not any(lives(pid) for pid in started)
    assert "waiting for mllm.reason (loading)" in "\n".join(said)
    assert said[-1].endswith("ready")


async def test_one_that_dies_is_told_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(child, "RUN", DIES)
    with pytest.raises(ServerDied, match=r"ended with code 1\n(?s:.*)no weights"):
        async with child_server(free_port(), tmp_path / "log", lambda _: None):
            pass


async def test_one_that_is_never_ready_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(child, "RUN", textwrap.dedent("import time; time.sleep(600)"))
    with pytest.raises(ServerDied, match="is not ready: the server to start"):
        async with child_server(free_port(), tmp_path / "log", lambda _: None, ready_seconds=0.1):
            pass


async def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerDied, match=f"listening on 127.0.0.1:{port} already"):
            async with child_server(port, tmp_path / "log", lambda _: None):
                pass
    assert os.listdir(tmp_path) == []
