"""What this machine has, without loading torch or Ray."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from cluster.node import Gpu, lowest

_SUCCESS: Final = 0
"""nvmlReturn_t of a call that worked."""

_NAME_BYTES: Final = 96
"""NVML_DEVICE_NAME_V2_BUFFER_SIZE, and as much as a UUID takes."""

_ROOM: Final = 1024
"""Processes of one GPU that there is room for."""

_WATTS_PER_MILLIWATT: Final = 1e-3

_PROCESS: Final = "@IQII"
"""nvmlProcessInfo_t in versions 2 and 3: process id, bytes, and the instances of MIG."""


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
        return lowest([_capability(nvml, index) for index in range(_count(nvml))] if nvml is not None else [])


def gpus_of_driver() -> tuple[Gpu | None, ...]:
    """The NVIDIA GPUs, in the driver's order; None for one that it does not tell the UUID of.

    Loads no library but the driver's.
    """
    with _driver() as nvml:
        return tuple(_gpu(nvml, index) for index in range(_count(nvml))) if nvml is not None else ()


def memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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


def _gpu(nvml: ctypes.CDLL, index: int) -> Gpu | None:
    device = ctypes.c_void_p()
    if not _works(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device)):
        return None
    uuid = _text(nvml, "nvmlDeviceGetUUID", device)
    if uuid is None:
        return None
    memory, limit_mw = (ctypes.c_ulonglong * 3)(), ctypes.c_uint()  # nvmlMemory_t: total, free, used
    knows_memory = _works(nvml, "nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
    knows_limit = _works(nvml, "nvmlDeviceGetEnforcedPowerLimit", device, ctypes.byref(limit_mw))
    return Gpu(
        uuid,
        _text(nvml, "nvmlDeviceGetName", device),
        memory[0] if knows_memory else None,
        _capability(nvml, index),
        limit_mw.value * _WATTS_PER_MILLIWATT if knows_limit else None,
        _processes(nvml, device),
    )


def _text(nvml: ctypes.CDLL, function: str, device: ctypes.c_void_p) -> str | None:
    buffer = ctypes.create_string_buffer(_NAME_BYTES)
    return buffer.value.decode() if _works(nvml, function, device, buffer, ctypes.c_uint(_NAME_BYTES)) else None


def _processes(nvml: ctypes.CDLL, device: ctypes.c_void_p) -> tuple[int, ...] | None:
    """Ids of the processes that hold a compute context on the GPU, as the driver numbers them."""
    size = struct.calcsize(_PROCESS)
    for version in ("v3", "v2"):  # of drivers from 510 and from 450 on
        count, found = ctypes.c_uint(_ROOM), ctypes.create_string_buffer(_ROOM * size)
        if _works(nvml, f"nvmlDeviceGetComputeRunningProcesses_{version}", device, ctypes.byref(count), found):
            return tuple(process[0] for process in struct.iter_unpack(_PROCESS, found.raw[: count.value * size]))
    return None


def _works(nvml: ctypes.CDLL, function: str, *arguments: Any) -> bool:
    """Call the function; False where the driver lacks it, or will not tell."""
    call = getattr(nvml, function, None)
    return call is not None and bool(call(*arguments) == _SUCCESS)


def _capability(nvml: ctypes.CDLL, index: int) -> tuple[int, int] | None:
    device, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) != _SUCCESS:
        return None
    if nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor)) != _SUCCESS:
        return None
    return major.value, minor.value
