"""What a benchmark's results file says of where and how it was measured."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def provenance(name: str, *packages: str) -> dict[str, Any]:
    """Benchmark, time, command, machine and versions of the packages."""
    return {
        "benchmark": name,
        "measured": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
        "versions": {package: version(package) for package in ("energyaware", *packages)}
        | {"python": platform.python_version()},
    }


def machine() -> dict[str, Any]:
    """Processor, cores, threads of torch, memory, load and GPU."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    return {
        "cpu": ", ".join(sorted({line.partition(":")[2].strip() for line in lines if line.startswith("model name")})),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**20, 1),
        "load": os.getloadavg(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def spread(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Median, extremes and every value."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "all": [round(value, digits) for value in values],
    }
