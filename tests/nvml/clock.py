"""The scenario's clock, in a process that sees its GPUs."""

import os
import time
from pathlib import Path


def restart() -> None:
    """Make now the scenario's time 0, so that nothing depends on how long this process took to come up.

    Before the driver is asked for the first time, which is when it reads the scenario.
    """
    scenario = Path(os.environ["NVML_SCENARIO"])
    _, *lines = scenario.read_text().splitlines(keepends=True)
    scenario.write_text(f"start {time.monotonic()}\n{''.join(lines)}")


def start_s() -> float:
    """When the scenario's time 0 was, on the monotonic clock."""
    return float(Path(os.environ["NVML_SCENARIO"]).read_text().split()[1])


def now_s() -> float:
    """Seconds since the scenario's start."""
    return time.monotonic() - start_s()


def wait_until(scenario_s: float) -> None:
    left_s = scenario_s - now_s()
    assert left_s > 0, "this process came too late for its scenario"
    time.sleep(left_s)
