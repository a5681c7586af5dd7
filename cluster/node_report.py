"""What a node says of itself, run on that node.

It is sent there as code and not by name (see `cluster.survey`), for a node may have another energyaware, or none. So
it loads nothing by name but what comes with Python and Ray, which has a psutil of its own, and answers in plain values.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from cluster.inventory import gpus_of_driver, memory_bytes
from cluster.node import Gpu, named

Probe = Callable[[str], dict[str, Any]]
"""What else a node is asked, given its name: it is sent as code too, and answers in plain values."""


def report(name: str, paths: Sequence[str], probe: Probe, *, by_ray: bool = True) -> dict[str, Any]:
    """All that the node says; its keys are fields of `cluster.survey.NodeReport`, or go to its `node`.

    `by_ray`: this process was started by Ray, whose daemon is its parent.
    """
    return {
        "memory_bytes": memory_bytes(),
        "gpus": [asdict(gpu) for gpu in gpus_handed_out(by_ray=by_ray)],
        "python": sys.executable,
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "interfaces": interfaces(),
        "chosen": {library: os.environ.get(f"{library}_SOCKET_IFNAME", "") for library in ("GLOO", "NCCL")},
        "sizes": {path: size_of(Path(path)) for path in paths},
        "found": probe(name),
    }


def clock_s() -> float:
    """Seconds since the epoch by this machine's clock."""
    return time.time()


def gpus_handed_out(*, by_ray: bool) -> tuple[Gpu, ...]:
    """The GPUs that Ray hands out here. Its daemon knows which: it hides them from processes that asked for none."""
    environment = psutil.Process(os.getppid()).environ() if by_ray else os.environ
    visible, gpus = environment.get("CUDA_VISIBLE_DEVICES"), gpus_of_driver()
    return tuple(gpu for gpu in gpus if gpu is not None) if visible is None else named(visible.split(","), gpus)


def interfaces() -> dict[str, list[str]]:
    """Addresses of this machine's network interfaces, by their names."""
    return {name: [each.address for each in addresses] for name, addresses in psutil.net_if_addrs().items()}


def interface_with(address: str, interfaces: Mapping[str, Sequence[str]]) -> str | None:
    """The interface that has the address; None where none has it, as behind address translation."""
    return next((name for name, owned in interfaces.items() if address in owned), None)


def size_of(path: Path) -> int | str:
    """Bytes of a file, or of the files in a folder, as a model's are counted; or why they cannot be read."""
    try:
        files = [path] if path.is_file() else [each for each in path.iterdir() if _counts(each)]
        if locked := [file.name for file in files if not os.access(file, os.R_OK)]:
            return f"may not be read: {', '.join(locked)}"
        return sum(file.stat().st_size for file in files)
    except OSError as problem:
        return str(problem.strerror)


def _counts(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".")
