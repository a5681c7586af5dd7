"""GPUs through NVML, on the stand-in for the driver's library: nvidia-ml-py and our source are the real ones."""

import os
import threading
import time

import pynvml

from energyaware.energy.base import Channel, GpuState
from energyaware.energy.nvml import MIG_IS_ON, NOTHING_TO_READ, NvmlSource

pytest_plugins = "tests.nvml.plugin"

STEP_S = 0.1
SLACK_J = 2e-3  # the counter's millijoules, at both ends
NO_PID = 4194305  # over the highest that Linux gives


def read_twice():
    """Joules by UUID, and the shortest and longest time that can lie between the two readings."""
    with NvmlSource() as source:
        before_s = time.monotonic()
        first = source.read()
        between_s = time.monotonic()
        time.sleep(0.75)
        after_s = time.monotonic()
        second = source.read()
        end_s = time.monotonic()
        return {
            "order": source.uuids,
            "prompt": source.prompt,
            "channels": [[c.component, c.device, c.source, c.measured] for c in source.channels],
            "joules": {c.device: second[c].energy_j - first[c].energy_j for c in second},
            "alone": [c.device for c in source.read({source.channels[1]})],
            "seconds": [after_s - between_s, end_s - before_s],
            "times": [before_s, *[first[c].at_s for c in first], between_s, after_s, *[second[c].at_s for c in second]],
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
        assert least - SLACK_J <= seen["joules"][uuid] <= most + SLACK_J
    assert seen["prompt"] is True
    assert seen["alone"] == ["GPU-aaaa"]
    assert seen["times"] == sorted(seen["times"]), "each reading has the moment at which it was asked for"


def machine():
    """What the source found, and one reading of each channel."""
    with NvmlSource() as source:
        return {
            "uuids": source.uuids,
            "unreadable": source.unreadable,
            "sources": {channel.device: channel.source for channel in source.channels},
            "readings": {channel.device: [r.energy_j is not None, r.reason] for channel, r in source.read().items()},
        }


def test_a_gpu_lost_at_the_start_costs_only_itself(gpus):
    seen = gpus.call(machine, "gpu GPU-a 100", "gpu GPU-b 100", "gpu GPU-c 100", "lost 1 0")
    assert seen["uuids"] == ["GPU-a", None, "GPU-c"]
    assert seen["unreadable"] == {"GPU 1": "NVML: GPU is lost"}
    assert seen["readings"] == {"GPU-a": [True, None], "GPU-c": [True, None]}


def test_each_gpu_is_read_as_it_can_be(gpus):
    machine_lines = [f"gpu GPU-{name} 100" for name in ("counter", "power", "usage", "nothing", "mig", "away", "moody")]
    seen = gpus.call(
        machine,
        *machine_lines,
        *("fail 1 3", "fail 2 3", "fail-instant 2 3", "fail 3 3", "fail-power 3 3"),
        *("mig 4 MIG-one", "mig 4 MIG-two", "fail 5 15", "fail 6 999"),
    )

    assert seen["sources"] == {
        "GPU-counter": "nvml energy counter",
        "GPU-power": "nvml power, integrated",
        "GPU-usage": "nvml power, integrated",
        "GPU-moody": "nvml energy counter",
    }
    assert seen["unreadable"] == {
        "GPU-nothing": NOTHING_TO_READ,
        "GPU-mig": MIG_IS_ON,
        "GPU-away": "NVML: GPU is lost",
    }
    assert seen["readings"].pop("GPU-moody") == [False, "NVML: Unknown Error"]
    assert all(reading == [True, None] for reading in seen["readings"].values())
    assert len(seen["uuids"]) == 7


NAMES = ["0", "1", "2", "3", "GPU-ab12", "GPU-ab13", "GPU-ab1", "GPU-c", "ab12", "", "MIG-one", "MIG-GPU-d9/1/0"]


def names():
    with NvmlSource() as source:
        return {name: [source.uuid_of(name), source.reason_for(name)] for name in NAMES} | {
            label: [source.uuid_of(label), source.reason_for(label)] for label in source.unreadable
        }


def test_a_gpu_goes_by_index_uuid_or_the_beginning_of_it(gpus):
    named = gpus.call(
        names,
        *("gpu GPU-ab12 1", "gpu GPU-gone 1", "gpu GPU-ab13 1", "gpu GPU-cd 1", "gpu GPU-ab123 1"),
        *("lost 1 0", "mig 3 MIG-one"),
    )

    assert {name: uuid for name, (uuid, _) in named.items() if uuid != name} == {
        "0": "GPU-ab12",
        "2": "GPU-ab13",
        "3": "GPU-cd",
        "GPU-c": "GPU-cd",
    }
    assert named["1"][1] == named["GPU 1"][1] == "NVML: GPU is lost"
    assert named["3"][1] == named["GPU-c"][1] == named["MIG-one"][1] == named["MIG-GPU-d9/1/0"][1] == MIG_IS_ON
    assert named["GPU-ab1"][1] == "GPU-ab1 stands for 3 GPUs"
    assert named["ab12"][1] == "NVML knows no ab12", "CUDA_VISIBLE_DEVICES does not take it either"


def unknown_index():
    with NvmlSource() as source:
        return [source.uuid_of("7"), source.reason_for("7"), source.state("7") == GpuState()]


def test_an_index_that_nvml_does_not_have_stands_for_itself(gpus):
    assert gpus.call(unknown_index, "gpu GPU-a 1") == ["7", "NVML knows no GPU 7", True]


def steps():
    with NvmlSource() as source:
        unknown = Channel("cpu", None, "rapl", measured=True)
        return [source.step_s(channel) for channel in source.channels] + [source.step_s(unknown)]


def test_the_steps_of_counters_are_found_by_watching_them(gpus):
    usual, late, quick, steady, still, integrated, unknown = gpus.call(
        steps,
        *("gpu GPU-usual 300", "gpu GPU-late 70", "gpu GPU-quick 90", "gpu GPU-steady 90", "gpu GPU-still 0"),
        *("gpu GPU-integrated 9", "phase 0.043 1", "step 0.02 2", "step 0.0001 3", "fail 5 3"),
    )

    assert 0.08 < usual < 0.16
    assert 0.08 < late < 0.16
    assert 0.01 < quick < 0.06
    assert steady < 0.06
    assert still == 0.1
    assert integrated == unknown == 0.0


def states():
    with NvmlSource() as source:
        return [vars(source.state(uuid)) for uuid in source.uuids]


def test_the_state_of_a_gpu_is_what_surrounds_its_joules(gpus):
    seen, unknown, elsewhere = gpus.call(
        states,
        *("gpu GPU-a 330.5", "gpu GPU-b 100", "gpu GPU-c 90"),
        *("limit 0 0 400", "temperature 0 0 61", "temperature 0 1e9 99", "clocks 0 0 1410 1593"),
        *("reasons 0 0 0x145", f"processes 0 0 1 {os.getpid()}", "fail-context 1 999", "fail-power 1 999"),
        *(f"processes 2 0 1 {NO_PID}", "reasons 2 0 0x103"),
    )

    integral_j = seen.pop("power_integral_j")
    assert integral_j > 330.5 * 0.5, "half a second passes in the constructor"
    assert seen == {
        "power_w": 330.5,
        "power_limit_w": 400,
        "temperature_c": 61,
        "clock_sm_mhz": 1410,
        "clock_memory_mhz": 1593,
        "throttle_reasons": ["sw power cap", "hw thermal slowdown"],
        "pids": [1, os.getpid()],
        "power_gaps": 0,
    }
    assert unknown == vars(GpuState())
    assert elsewhere["pids"] is None, "the numbers of another process namespace"
    assert elsewhere["throttle_reasons"] == [], "idle, a user's clocks, the display: nothing is held down"


def ways_to_start():
    try:
        NvmlSource().close()
    except pynvml.NVMLError as problem:
        return str(problem)
    return "started"


def test_without_a_driver_the_source_says_so(gpus, tmp_path):
    assert gpus.call(ways_to_start, "gpu GPU-a 1") == "started"
    assert gpus.call(ways_to_start) == "started", "a driver without GPUs"
    assert gpus.call(ways_to_start, NVML_SCENARIO="nowhere") == "Driver Not Loaded"
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert gpus.call(ways_to_start, LD_LIBRARY_PATH=str(tmp_path)) == "NVML Shared Library Not Found"


def closed_twice():
    source = NvmlSource()
    threads = threading.active_count()
    source.close()
    source.close()
    ((_, reading),) = source.read().items()
    pynvml.nvmlInit()
    pynvml.nvmlShutdown()
    return [threads - threading.active_count(), reading.energy_j, reading.reason]


def test_a_closed_source_has_no_thread_and_no_joules(gpus):
    assert gpus.call(closed_twice, "gpu GPU-a 1") == [1, None, "NVML: Uninitialized"]


def one_second():
    """How long the source was left alone."""
    with NvmlSource():
        start_s = time.monotonic()
        time.sleep(1.0)
        return time.monotonic() - start_s


def test_sampling_asks_each_gpu_for_one_value_ten_times_a_second_and_nothing_is_ever_set(gpus, tmp_path):
    log = tmp_path / "calls"
    waited_s = gpus.call(one_second, "gpu GPU-a 1", "gpu GPU-b 1", f"log {log}")

    calls = [line.split() for line in log.read_text().splitlines()]
    assert not [name for _, name in calls if "Set" in name or "Reset" in name]
    last_count = max(i for i, (_, name) in enumerate(calls) if name == "nvmlDeviceGetTotalEnergyConsumption")
    alone = calls[last_count + 1 :]
    assert {name for _, name in alone} == {"nvmlDeviceGetFieldValues"}
    for index in ("0", "1"):
        assert 1 <= sum(gpu == index for gpu, _ in alone) <= waited_s / 0.1 + 5
