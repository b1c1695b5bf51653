"""Freed memory is kept: by this process and, by its environment, by a child."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from engines.allocation import KEEPING

FAULTS = """
import resource, sys
import numpy as np
from engines.allocation import keep_freed_memory
assert "keep" not in sys.argv or keep_freed_memory()

def step():
    first = np.ones(750_000, dtype=np.float32)
    second = first * 2
    return float((second + first)[-1])

step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*args: str, **more: str) -> int:
    """Page faults of twenty steps that take three megabytes three times."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))
    }
    command = [sys.executable, "-c", FAULTS, *args]
    found = subprocess.run(
        command, env=inherited | more, capture_output=True, text=True, check=True, timeout=60
    )
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_not_mapped_anew() -> None:
    given_back = faults()
    if given_back < 20 * 500:
        pytest.skip("large pages: memory that is given back costs little here")
    assert faults("keep") < given_back / 10
    assert faults(**KEEPING) < given_back / 10
