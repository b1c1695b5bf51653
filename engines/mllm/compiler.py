"""Whether this machine can compile what torch.compile makes for a CPU: C++ with OpenMP and Python's headers."""

from __future__ import annotations

import functools
import os
import subprocess
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCE = "#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"
SECONDS = 60.0


@functools.cache
def compiler_works() -> bool:
    """Compile a few lines as torch would, with ``$CXX`` or ``g++``, once in a process; False if that fails."""
    command = [os.environ.get("CXX", "g++"), "-fopenmp", "-shared", "-fPIC"]
    try:
        with TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text(SOURCE)
            done = subprocess.run(
                [*command, f"-I{sysconfig.get_path('include')}", str(source), "-o", f"{folder}/probe.so"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
            )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
