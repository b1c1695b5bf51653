"""What NVIDIA's driver says of this machine, asked of its libraries directly: importing torch takes seconds."""

from __future__ import annotations

import ctypes

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


def driver_version() -> str:
    """The driver's version, such as ``580.65.06``; `ABSENT` without one."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return ABSENT
    if nvml.nvmlInit_v2() != 0:
        return ABSENT
    version = ctypes.create_string_buffer(96)
    failed = nvml.nvmlSystemGetDriverVersion(version, len(version))
    nvml.nvmlShutdown()
    return ABSENT if failed else version.value.decode("ascii")
