"""Waits until a vLLM server has nothing left to do; a pod's preStop hook.

Arguments: the port; how many seconds to wait at least, until nobody sends new work; how many seconds at most.
Ends with 0 when the server is idle, cannot be reached any more, or the time is up.
"""

from __future__ import annotations

import sys
import time
import urllib.request
from urllib.error import URLError

BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting{")
POLL_SECONDS = 0.5


def unfinished(port: int) -> float:
    """Requests that the server is working on or that wait in it. Raises URLError."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(BUSY))


def drain(port: int, at_least: float, at_most: float) -> str:
    """Wait; returns what ended it."""
    end = time.monotonic() + at_most
    time.sleep(at_least)
    while time.monotonic() < end:
        try:
            left = unfinished(port)
        except (URLError, OSError) as fault:
            return f"the server is away: {fault}"
        if left == 0:
            return "nothing is left to do"
        time.sleep(POLL_SECONDS)
    return "the time is up"


if __name__ == "__main__":
    print(drain(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])), flush=True)
