"""A machine with simulated GPUs, for benchmarks of meters: the tests' stand-in for the NVIDIA driver, built once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # a script's own folder is what Python puts there, and the scenarios are the tests'


class Machine:
    """Processes started in its environment find the stand-in where they look for the driver's library.

    Args:
        folder: where the library and the scenario lie.

    Raises:
        SystemExit: this machine cannot build or load it.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            raise SystemExit("the stand-in for the NVIDIA driver wants Linux and a C compiler (cc)")
        self._folder = folder
        self._scenario = folder / "scenario"
        sources = sorted((ROOT / "tests" / "nvml").glob("*.c"))
        flags = ["-shared", "-fPIC", "-O1", "-Wl,-Bsymbolic"]
        subprocess.run([compiler, *flags, "-o", folder / "libnvidia-ml.so.1", *sources, "-lm", "-pthread"], check=True)
        smi = folder / "nvidia-smi"  # CodeCarbon looks for GPUs only where this program can be run
        smi.write_text("#!/bin/sh\n")
        smi.chmod(0o755)

    def draw(self, lines: Sequence[str]) -> float:
        """Begin a scenario. Returns when its time 0 is, on the monotonic clock."""
        start_s = time.monotonic()
        self._scenario.write_text("\n".join([f"start {start_s}", *lines, ""]))
        return start_s

    def environment(self, visible: str | None = None, packages: Path | None = None) -> dict[str, str]:
        """For a process on this machine.

        Args:
            visible: CUDA_VISIBLE_DEVICES; None leaves it out.
            packages: a folder of packages that come before the environment's own.
        """
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        environment |= {
            "LD_LIBRARY_PATH": str(self._folder),
            "NVML_SCENARIO": str(self._scenario),
            "PATH": f"{self._folder}{os.pathsep}{os.environ['PATH']}",
        }
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
        if packages is not None:
            environment["PYTHONPATH"] = str(packages.absolute())
        return environment
