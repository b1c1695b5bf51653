"""A cheap stand-in for a vLLM process, run as a script: forks a stubborn grandchild, then answers as vLLM would.

``stand_in_server.py PORT PID_FILE MODE``: MODE ``serve`` answers /health and /v1/embeddings; ``crash`` prints and
exits with status 3; ``sick`` is healthy but fails every call; ``stubborn`` ignores SIGTERM; ``obedient`` has a
grandchild that stays in its process group. The process ids go to PID_FILE, one a line.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

VECTOR = base64.b64encode(bytes(8)).decode()


class Answers(BaseHTTPRequestHandler):
    sick = False

    def do_GET(self) -> None:
        self._answer(200, {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        vector = {"index": 0, "object": "embedding", "embedding": VECTOR}
        self._answer(500 if self.sick else 200, {"data": [vector]})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def grandchild(mode: str) -> int:
    """A process that ignores SIGTERM and holds on to the output; unless ``obedient``, in a session of its own."""
    pid = os.fork()
    if pid == 0:
        if mode != "obedient":
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
        os._exit(0)
    return pid


def main(port: int, pid_file: Path, mode: str) -> int:
    pids = [os.getpid(), grandchild(mode)]
    pid_file.write_text("\n".join(map(str, pids)))
    Path(os.environ["VLLM_RPC_BASE_PATH"], "left behind").touch()
    print("WARNING a long line", "x" * 200_000, flush=True)
    print("sockets in", os.environ["VLLM_RPC_BASE_PATH"], flush=True)
    if mode == "crash":
        print("no room for the model", flush=True)
        return 3
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Answers.sick = mode == "sick"
    HTTPServer(("127.0.0.1", port), Answers).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
