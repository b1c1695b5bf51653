"""What a process and its children use."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from loadtests.processes import cpu_seconds, descendants

NESTED = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=sys.stdin)
print(child.pid, flush=True)
child.wait()
"""


def test_children_and_theirs_are_found() -> None:
    command = [sys.executable, "-c", NESTED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert descendants(os.getpid()) >= {child.pid, grandchild}
        assert descendants(child.pid) == {grandchild}
        child.communicate("\n")
    assert descendants(child.pid) == set()
    assert cpu_seconds(child.pid) == 0.0


def test_what_a_process_has_computed_grows() -> None:
    before, end = cpu_seconds(os.getpid()), time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert cpu_seconds(os.getpid()) > before
