"""Runs one command and sees to it that nothing of it outlives the process that asked for it.

``python leash.py PARENT_PID GRACE_SECONDS COMMAND...`` is a process of its own, between the gateway and vLLM, because
vLLM starts processes that a signal to its first one does not reach. The kernel tells the leash when its parent
dies, even by SIGKILL; orphans of the command are handed to the leash, wherever they have moved. On SIGTERM, on
the parent's death and on the command's own end, it ends the whole tree, then exits with the command's status.

What a terminal sends to whoever asked does not reach the command, as that is a process group of its own. It is no
session of its own: between sessions Linux weighs no priorities (sched(7), autogroup), and vLLM's are lower on a CPU.

It is run as a file and imports nothing of the project. Linux only. The parent's thread that starts it must live as
long as the command should: the kernel counts a thread's end as the parent's death.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SET_PDEATHSIG = 1
SET_CHILD_SUBREAPER = 36
WAKING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


def leashed(command: Sequence[str], grace: float) -> list[str]:
    """The command line that runs `command` on a leash of this process; `grace`: seconds from SIGTERM to SIGKILL."""
    return [sys.executable, "-I", __file__, str(os.getpid()), str(grace), *command]


def main(parent: int, grace: float, command: list[str]) -> int:
    """Run `command` until it or `parent` ends or a signal comes; returns an exit status as a shell would."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKING)
    os.setpgid(0, 0)
    _prctl(SET_CHILD_SUBREAPER, 1)
    _prctl(SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM
    child = subprocess.Popen(command, preexec_fn=_become_command)
    status = _wait(child.pid)
    if status is None:
        os.kill(child.pid, signal.SIGTERM)
        status = _wait_at_most(grace, child.pid)
    _kill_the_rest()
    if status is None:
        return 128 + signal.SIGKILL
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become_command() -> None:
    """In the forked child: normal signals again, and death with the leash."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WAKING)
    _prctl(SET_PDEATHSIG, signal.SIGKILL)


def _wait(child: int) -> int | None:
    """The command's wait status once it ends; None when a signal says to end it."""
    while signal.sigwait(WAKING) == signal.SIGCHLD:
        while pid_status := _reap_one():
            if pid_status[0] == child:
                return pid_status[1]
    return None


def _wait_at_most(seconds: float, child: int) -> int | None:
    """The command's wait status once it ends; None if it has not after `seconds`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, left)
        while pid_status := _reap_one():
            if pid_status[0] == child:
                return pid_status[1]
    return None


def _kill_the_rest() -> None:
    """Kill children until there are none: each one's own children come to the leash when it dies."""
    while children := _children():
        for child in children:
            os.kill(child, signal.SIGKILL)
        os.waitpid(-1, 0)


def _reap_one() -> tuple[int, int] | None:
    """Process id and wait status of a child that ended; None if none has."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
