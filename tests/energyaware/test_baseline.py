"""Idle power: read while nothing runs, aligned to a counter's steps, and not trusted where the node was busy."""

import pytest

from energyaware.energy.base import MeterSettings
from energyaware.energy.baseline import Baseline, read_baseline
from energyaware.energy.nvml import NvmlSource
from energyaware.energy.sources import find_sources
from tests.powercap import Powercap, amd

pytest_plugins = "tests.nvml.plugin"


def never_busy():
    return 0.0


class Busy:
    """A machine whose CPUs are all busy."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        self.seconds += 1000.0
        return self.seconds


def read_gpus():
    source = NvmlSource()
    found = read_baseline([source], never_busy, 1.0)
    return {c.device: found.power_w[c] for c in source.channels}, [c.device for c in found.reasons], found.context


def test_idle_power_is_exact_to_the_moment_at_which_the_counter_moves(gpus):
    power_w, unknown, context = gpus.call(read_gpus, "gpu GPU-a 60", "gpu GPU-b 71.5", "phase 0.05 1")
    assert power_w == pytest.approx({"GPU-a": 60, "GPU-b": 71.5}, rel=0.02)
    assert (unknown, context) == ([], False)


def read_broken():
    source = NvmlSource()
    found = read_baseline([source], never_busy, 1.0)
    return {c.device: found.reasons.get(c) for c in source.channels}, [c.device for c in found.power_w]


def test_a_gpu_that_fails_meanwhile_has_no_idle_power_and_says_why(gpus):
    reasons, known = gpus.call(read_broken, "gpu GPU-a 60", "gpu GPU-b 60", "gpu GPU-c 60", "fail 1 999 0 1e9")
    assert reasons == {"GPU-a": None, "GPU-b": "NVML: Unknown Error", "GPU-c": None}
    assert known == ["GPU-a", "GPU-c"]


@pytest.fixture
def host(tmp_path, monkeypatch):
    powercap = amd(Powercap(tmp_path))
    monkeypatch.setenv("ENERGYAWARE_POWERCAP", str(powercap.root))
    with powercap.drawing({"intel-rapl:0": [(0, 80.0)]}):
        found = find_sources(MeterSettings(components=("cpu",)))
        yield found.sources
        found.close()


def test_a_busy_node_has_a_power_that_is_not_trusted_as_idle(host):
    ((channel,),) = [source.channels for source in host]
    quiet, busy = read_baseline(host, never_busy, 1.0), read_baseline(host, Busy(), 0.5)

    assert quiet.trusted_w(channel) == pytest.approx(80, rel=0.1)
    assert busy.power_w[channel] == pytest.approx(80, rel=0.2)
    assert busy.trusted_w(channel) is None
    assert "busy while its idle power was read" in busy.reasons[channel]


def test_no_time_is_no_reading(host):
    ((channel,),) = [source.channels for source in host]
    found = read_baseline(host, never_busy, 0)
    assert (found.power_w, found.trusted_w(channel)) == ({}, None)
    assert found.reasons[channel] == "idle power was not read (idle_s is 0)"


def test_an_earlier_meters_rows_are_taken_for_the_same_source_alone(host):
    ((channel,),) = [source.channels for source in host]
    row = {
        "component": "cpu", "device": None, "source": channel.source, "idle_power_w": 75.0, "idle_reason": None,
        "idle_context": None,
    }  # fmt: skip
    assert Baseline.of_rows([row], [channel]) == Baseline({channel: 75.0}, {}, context=False)
    assert Baseline.of_rows([row | {"source": "codecarbon cpu_load"}], [channel]).power_w == {}
