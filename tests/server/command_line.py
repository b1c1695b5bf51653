"""``r2sm`` in a process of its own: within this one a command would take the output away from everybody else."""

from __future__ import annotations

import asyncio
import os
import sys

from tests.server.gateway_process import ROOT

RUN = "from server.cli import main; main()"


async def r2sm(*words: str, **environment: str) -> tuple[int, str]:
    """Its exit code, and all that it wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, *words),
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()
