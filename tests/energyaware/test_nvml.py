"""GPUs through NVML, on the stand-in for the driver's library: nvidia-ml-py and our source are the real ones."""

import time

import pynvml
import pytest

from energyaware.energy.ledger import Ledger
from energyaware.energy.nvml import NvmlSource
from tests.nvml.clock import now_s, wait_until

pytest_plugins = "tests.nvml.plugin"

STEP_S = 0.1
SLACK = 1e-3  # the counter's millijoules


def read_twice():
    """Joules by UUID, and the shortest and longest time that can lie between the two readings."""
    source = NvmlSource()
    before_s = time.monotonic()
    first = source.read()
    between_s = time.monotonic()
    time.sleep(0.75)
    after_s = time.monotonic()
    second = source.read()
    end_s = time.monotonic()
    source.close()
    return {
        "order": source.uuids,
        "channels": [[c.component, c.device, c.source, c.measured] for c in second],
        "joules": {c.device: second[c].energy_j - first[c].energy_j for c in second},
        "seconds": [after_s - between_s, end_s - before_s],
        "factor": source.carbon_g_per_kwh(),
    }


def test_joules_are_power_times_time_by_uuid(gpus):
    seen = gpus.call(read_twice, f"step {STEP_S}", "gpu GPU-bbbb 300", "gpu GPU-aaaa 70.5")

    assert seen["order"] == ["GPU-bbbb", "GPU-aaaa"], "in NVML's order, which indices refer to"
    assert seen["channels"] == [
        ["gpu", "GPU-bbbb", "nvml energy counter", True],
        ["gpu", "GPU-aaaa", "nvml energy counter", True],
    ]
    shortest_s, longest_s = seen["seconds"]
    for uuid, watts in {"GPU-bbbb": 300, "GPU-aaaa": 70.5}.items():
        least, most = watts * (shortest_s - STEP_S), watts * (longest_s + STEP_S)
        assert least - SLACK <= seen["joules"][uuid] <= most + SLACK
    assert seen["factor"] is None


def one_window():
    """Rows by GPU of one window of a stage that holds both GPUs."""
    source = NvmlSource()
    ledger = Ledger("node", [source], lambda pids: 0.0)
    token = ledger.open("a", 1, "train", 1, [], source.uuids)
    time.sleep(0.6)
    ledger.close(token)
    return {row["device"]: row for row in ledger.collect("a", 1, kept=True) if row.pop("started_at")}


@pytest.mark.parametrize(("code", "reason"), [(3, "Not Supported"), (15, "GPU is lost")])
def test_an_unreadable_gpu_is_null_with_the_reason_and_the_other_is_read(gpus, code, reason):
    rows = gpus.call(one_window, "step 0.001", "gpu GPU-a 250", "gpu GPU-b 100", f"fail 0 {code}")

    assert rows["GPU-a"]["energy_j"] is None
    assert rows["GPU-a"]["reason"] == f"NVML: {reason}"
    assert rows["GPU-b"]["energy_j"] == pytest.approx(100 * rows["GPU-b"]["duration_s"], rel=0.05)


def eventful():
    """Rows of a window over second 3, of one after it, and when, by the scenario's clock, the first was closed."""
    source = NvmlSource()
    ledger = Ledger("node", [source], lambda pids: 0.0)
    wait_until(2.5)
    token = ledger.open("a", 1, "train", 1, [], source.uuids)
    wait_until(3.5)
    closing_s = now_s()
    ledger.close(token)
    closed_s = now_s()
    later = ledger.open("b", 1, "train", 1, [], source.uuids)
    time.sleep(0.6)
    ledger.close(later)
    stages = {stage: ledger.collect(stage, 1, kept=True) for stage in ("a", "b")}
    return [closing_s, closed_s], {
        stage: {row["device"]: [row["energy_j"], row["reason"], row["duration_s"]] for row in rows}
        for stage, rows in stages.items()
    }


def test_a_reset_gives_a_null_window_and_changing_power_is_followed(gpus):
    (closing_s, closed_s), rows = gpus.call(
        eventful, "step 0.001", "gpu GPU-a 250", "gpu GPU-b 0", "reset 0 3", "power 1 3 400"
    )

    assert rows["a"]["GPU-a"][:2] == [None, "the counter went backwards (reset)"]
    energy_j, reason, duration_s = rows["b"]["GPU-a"]
    assert reason is None, "the window after the reset is sound"
    assert energy_j == pytest.approx(250 * duration_s, rel=0.05)
    energy_j, reason, _ = rows["a"]["GPU-b"]
    assert reason is None
    assert 400 * (closing_s - 3) - 1 <= energy_j <= 400 * (closed_s - 3) + 1


def ways_to_start():
    try:
        NvmlSource().close()
    except pynvml.NVMLError as problem:
        return str(problem)
    return "started"


def test_without_a_driver_the_source_says_so(gpus, tmp_path):
    assert gpus.call(ways_to_start, "gpu GPU-a 1") == "started"
    assert gpus.call(ways_to_start, NVML_SCENARIO="nowhere") == "Driver Not Loaded"
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert gpus.call(ways_to_start, LD_LIBRARY_PATH=str(tmp_path)) == "NVML Shared Library Not Found"
