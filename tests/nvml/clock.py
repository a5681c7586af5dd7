"""The scenario's clock, in a process that sees its GPUs."""

import os
import time
from pathlib import Path


def now_s() -> float:
    """Seconds since the scenario's start."""
    return time.monotonic() - float(Path(os.environ["NVML_SCENARIO"]).read_text().split()[1])


def wait_until(scenario_s: float) -> None:
    left_s = scenario_s - now_s()
    assert left_s > 0, "this process came too late for its scenario"
    time.sleep(left_s)
