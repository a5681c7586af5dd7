"""What this machine has, seen from processes on machines of our making."""

import os
import sys

import pytest

from cluster.inventory import local_capability, local_cpus, local_gpus

pytest_plugins = "tests.nvml.plugin"


def inventory():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return {"cpus": local_cpus(), "gpus": local_gpus(), "heavy": sorted({"torch", "ray"} & sys.modules.keys())}


@pytest.mark.parametrize("count", [1, 3])
def test_gpus_that_the_driver_reports_and_cores_that_the_process_may_use(gpus, count):
    seen = gpus.call(inventory, *[f"gpu GPU-{index} 100" for index in range(count)])
    assert seen == {"cpus": 1, "gpus": count, "heavy": []}


def capability():
    found = local_capability()
    assert not {"torch", "ray"} & sys.modules.keys()
    return found


def test_the_lowest_compute_capability_counts(gpus):
    machine = [f"gpu GPU-{index} 100" for index in range(3)]
    assert gpus.call(capability, *machine) == [9, 0]
    assert gpus.call(capability, *machine, "capability 0 10 0", "capability 1 8 9") == [8, 9]
    assert gpus.call(capability, *machine, "capability 0 7 5", "capability 2 8 0") == [7, 5]


def test_a_capability_that_cannot_be_read_is_unknown(gpus):
    assert gpus.call(capability, "gpu GPU-0 100", "gpu GPU-1 100", "capability 1 0 0") is None
    assert gpus.call(capability, "gpu GPU-0 100", "gpu GPU-1 100", "lost 1 0") is None
    assert gpus.call(capability) is None
    assert gpus.call(capability, "gpu GPU-0 100", NVML_SCENARIO="nowhere") is None


def test_no_gpus_where_the_driver_is_not_loaded_or_its_library_cannot_be(gpus, tmp_path):
    assert gpus.call(inventory, "gpu GPU-0 100", NVML_SCENARIO="nowhere")["gpus"] == 0
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert gpus.call(inventory, "gpu GPU-0 100", LD_LIBRARY_PATH=str(tmp_path))["gpus"] == 0


def test_this_process_may_use_at_least_the_core_it_runs_on():
    assert 1 <= local_cpus() <= os.cpu_count()
