"""What NVIDIA's driver says of this machine, asked of its libraries directly: importing torch takes seconds."""

from __future__ import annotations

import ctypes
from importlib.metadata import version

ABSENT = "absent"


def gpu_count() -> int:
    """How many GPUs this process may use; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def usable_gpus() -> int:
    """How many GPUs there are for torch, on which both GPU runtimes stand: none for a build without CUDA."""
    return 0 if version("torch").endswith("+cpu") else gpu_count()


def driver_version() -> str:
    """The driver's version, such as ``580.65.06``; `ABSENT` without one."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return ABSENT
    if nvml.nvmlInit_v2() != 0:
        return ABSENT
    told = ctypes.create_string_buffer(96)
    failed = nvml.nvmlSystemGetDriverVersion(told, len(told))
    nvml.nvmlShutdown()
    return ABSENT if failed else told.value.decode("ascii")
