"""What this machine has, without loading torch or Ray."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SUCCESS: Final = 0
"""nvmlReturn_t of a call that worked."""


def local_cpus() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def local_gpus() -> int:
    """NVIDIA GPUs that the driver reports; 0 without a driver."""
    with _driver() as nvml:
        return 0 if nvml is None else _count(nvml)


def local_capability() -> tuple[int, int] | None:
    """Lowest CUDA compute capability over the GPUs that the driver reports; None without one, or if it does not say."""
    with _driver() as nvml:
        found = [_capability(nvml, index) for index in range(_count(nvml))] if nvml is not None else []
    known = [capability for capability in found if capability is not None]
    return min(known) if known and len(known) == len(found) else None


@contextmanager
def _driver() -> Iterator[ctypes.CDLL | None]:
    """NVIDIA's management library, initialised; None where there is no driver."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        yield None
        return
    if nvml.nvmlInit_v2() != _SUCCESS:
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _count(nvml: ctypes.CDLL) -> int:
    count = ctypes.c_uint()
    return count.value if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == _SUCCESS else 0


def _capability(nvml: ctypes.CDLL, index: int) -> tuple[int, int] | None:
    device, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) != _SUCCESS:
        return None
    if nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor)) != _SUCCESS:
        return None
    return major.value, minor.value
