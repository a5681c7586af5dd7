"""What this machine has, without loading torch or Ray."""

import ctypes
import os


def local_cpus() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def local_gpus() -> int:
    """NVIDIA GPUs that the driver reports; 0 without a driver."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    if nvml.nvmlInit_v2() != 0:
        return 0
    count = ctypes.c_uint()
    found = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    nvml.nvmlShutdown()
    return count.value if found else 0
