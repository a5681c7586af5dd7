"""What reads which component of a node: on this machine, on powercap trees, and on the stand-in for NVML."""

import time

import pytest

from energyaware.energy.base import MeterSettings
from energyaware.energy.sources import GPU_FILES, find_sources
from tests.powercap import Powercap, amd, intel

pytest_plugins = "tests.nvml.plugin"

HOST = MeterSettings(components=("cpu", "dram"))


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    """An empty tree that is this process's."""
    powercap = Powercap(tmp_path / "powercap")
    for name, value in powercap.environment.items():
        monkeypatch.setenv(name, value)
    return powercap


@pytest.fixture
def find():
    """Sources of some settings, closed at the end."""
    found = []

    def find(settings):
        found.append(find_sources(settings))
        return found[-1]

    yield find
    for sources in found:
        sources.close()


def read_from(sources):
    return {line.component: (line.source, line.measured, line.state) for line in sources.lines}


def channels(sources):
    return [channel.component for source in sources.sources for channel in source.channels]


def test_rapl_gives_both_where_it_can_and_codecarbon_is_not_started(powercap, find):
    intel(powercap)
    found = find(HOST)
    assert read_from(found) == {
        "cpu": ("rapl package", True, "ok"),
        "dram": ("rapl dram", True, "ok"),
        "gpu": (None, None, "left out"),
    }
    assert [type(source).__name__ for source in found.sources] == ["RaplSource"]
    assert [(line.reason, line.advice) for line in found.lines[:2]] == [(None, None)] * 2
    assert found.missing == ()


def test_codecarbon_gives_what_rapl_does_not_and_nothing_twice(powercap, find):
    amd(powercap)
    found = find(HOST)
    assert read_from(found) == {
        "cpu": ("rapl package", True, "ok"),
        "dram": ("codecarbon ram model", False, "ok"),
        "gpu": (None, None, "left out"),
    }
    assert channels(found) == ["cpu", "dram"]
    dram = found.lines[1]
    assert dram.reason.startswith("RAPL: no dram zone in intel-rapl:0")
    assert dram.advice is None, "no permission gives an AMD processor a counter for memory"
    assert found.missing == ()


def test_unreadable_rapl_is_estimated_and_tells_what_to_do(powercap, find):
    """Also where one socket alone is: CodeCarbon would add up the others and call that the machine's."""
    intel(powercap).hide("intel-rapl:1")
    found = find(HOST)
    assert read_from(found)["cpu"] == ("codecarbon cpu_load", False, "ok")
    assert read_from(found)["dram"] == ("rapl dram", True, "ok")
    assert found.lines[0].reason == f"RAPL: {powercap.root}/intel-rapl:1/energy_uj: Is a directory"


def test_a_component_left_out_is_not_read(powercap, find):
    intel(powercap)
    found = find(MeterSettings(components=("dram",)))
    assert channels(found) == ["dram"]
    assert read_from(found)["cpu"] == (None, None, "left out")
    assert found.lines[0].reason == "left out of energy.components"
    assert found.missing == ()


def test_what_neither_rapl_nor_codecarbon_gives_is_missing_with_both_reasons(powercap, find, monkeypatch):
    intel(powercap).hide("intel-rapl:0")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")  # CodeCarbon then does not start
    found = find(HOST)
    assert channels(found) == ["dram"]
    (line,) = found.missing
    assert (line.component, line.state, line.source, line.measured) == ("cpu", "unreadable", None, None)
    assert line.reason == (f"RAPL: {powercap.root}/intel-rapl:0/energy_uj: Is a directory; CodeCarbon did not start")


def all_lines():
    found = find_sources(MeterSettings(components=("gpu",)))
    time.sleep(0.3)
    lines = [
        [line.device, line.name, line.source, line.measured, line.state, line.reason, bool(line.advice), line.step_s]
        for line in found.lines
        if line.component == "gpu"
    ]
    uuids = [channel.device for source in found.sources for channel in source.channels]
    missing = len(found.missing)
    found.close()
    return [lines, uuids, found.gpus is not None, missing]


def test_gpus_are_told_apart_by_uuid_and_one_that_cannot_be_read_says_why(gpus):
    lines, uuids, has_driver, missing = gpus.call(
        all_lines, "step 0.1", "gpu GPU-a 250", "gpu GPU-b 100", "mig 1", "gpu GPU-c 70", "lost 2 0"
    )
    (counted, mig, lost) = lines
    *counted, step_s = counted
    assert counted == ["GPU-a", "GPU 0", "nvml energy counter", True, "ok", None, False]
    assert 0.05 < step_s < 0.2
    assert mig[:5] == ["GPU-b", "GPU 1", None, None, "unreadable"]
    assert "MIG is on" in mig[5]
    assert mig[6], "there is something to do about it"
    assert lost[4] == "unreadable"
    assert "GPU is lost" in lost[5]
    assert uuids == ["GPU-a"]
    assert has_driver
    assert missing == 0, "a GPU that cannot be read is told at its windows: sweeps may not want it"


def test_a_machine_without_a_driver_or_without_gpus_has_none(gpus, tmp_path):
    lines, uuids, has_driver, _ = gpus.call(all_lines, NVML_SCENARIO=str(tmp_path / "nowhere"))
    assert (uuids, has_driver) == ([], False)
    there = any(path.exists() for path in GPU_FILES)  # then it can be reached, with some help
    assert lines[0][4:7] == ["unreadable" if there else "absent", "NVML: Driver Not Loaded", there]

    lines, uuids, has_driver, _ = gpus.call(all_lines)
    assert (uuids, has_driver) == ([], True)
    assert lines[0][4:6] == ["absent", "NVML: the driver shows no GPU"]
