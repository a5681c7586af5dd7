"""Processes on a machine whose GPUs are those of a scenario."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Simulated:
    """Processes that see the GPUs of a scenario. A library is found when a process starts: hence processes."""

    library: Path
    folder: Path

    @property
    def scenario(self) -> Path:
        """The file that the stand-in reads."""
        return self.folder / "scenario"

    @property
    def start_s(self) -> float:
        """When the scenario's time 0 was, on the monotonic clock."""
        return float(self.scenario.read_text().split()[1])

    def environment(self, *lines: str) -> dict[str, str]:
        """For a process whose machine has the GPUs of these scenario lines, from now on."""
        self.scenario.write_text("\n".join([f"start {time.monotonic()}", *lines, ""]))
        chosen = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        return chosen | {"LD_LIBRARY_PATH": str(self.library.parent), "NVML_SCENARIO": str(self.scenario)}

    def call(self, function: Callable[[], Any], *lines: str, timeout_s: float = 60, **changes: str) -> Any:
        """What the function returns, as JSON, in a process on that machine; `changes` are to its environment."""
        code = f"import json, {function.__module__} as m; print(json.dumps(m.{function.__name__}()))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=self.environment(*lines) | changes,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])
