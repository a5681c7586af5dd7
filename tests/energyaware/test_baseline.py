"""Idle power: read while nothing runs, aligned to a counter's steps, and not trusted where the node was busy."""

import os
from types import SimpleNamespace

import pytest

from energyaware.energy import baseline
from energyaware.energy.base import MeterSettings
from energyaware.energy.baseline import Baseline, read_baseline
from energyaware.energy.nvml import NvmlSource
from energyaware.energy.rapl import RaplSource
from energyaware.energy.service import NodeService, Post
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


@pytest.mark.parametrize(("waited_s", "idle_s"), [(0, 90), (70, 5)])
def test_counters_that_wrap_each_minute_are_followed_however_long_it_takes(tmp_path, monkeypatch, waited_s, idle_s):
    powercap, now_s = amd(Powercap(tmp_path)), [1000.0]

    def sleep(seconds):
        now_s[0] += seconds
        powercap.draw("intel-rapl:0", 80.0 * seconds)

    monkeypatch.setattr(baseline, "time", SimpleNamespace(monotonic=lambda: now_s[0], sleep=sleep))
    source = RaplSource(["cpu"], powercap.root, lambda: now_s[0])
    sleep(waited_s)  # contexts take as long
    found = read_baseline([source], never_busy, idle_s)
    assert found.reasons == {}
    assert list(found.power_w.values()) == pytest.approx([80])


def test_a_counter_that_starts_anew_halfway_has_no_idle_power(tmp_path, monkeypatch):
    powercap, now_s = amd(Powercap(tmp_path)), [1000.0]

    def sleep(seconds):
        now_s[0] += seconds
        powercap.draw("intel-rapl:0", 80.0 * seconds)
        if now_s[0] == 1020.5:
            powercap.set("intel-rapl:0", 0)

    monkeypatch.setattr(baseline, "time", SimpleNamespace(monotonic=lambda: now_s[0], sleep=sleep))
    found = read_baseline([RaplSource(["cpu"], powercap.root, lambda: now_s[0])], never_busy, 60)
    assert found.power_w == {}
    assert "(reset)" in next(iter(found.reasons.values()))


def idle_power_of_gpus():
    service = NodeService(Post("n", "r", "s", None), MeterSettings(("gpu",), idle_s=1.0))
    return {row["device"]: row["idle_reason"] for row in service.finish()["nodes"]}


def test_a_gpu_that_another_process_is_on_has_no_idle_power_that_is_trusted(gpus):
    machine = [f"gpu GPU-{letter} 300" for letter in "abc"]
    others = [f"processes 0 0 {os.getpid()}", f"processes 1 0 {os.getpid()}"]
    reasons = gpus.call(idle_power_of_gpus, *machine, *others)
    assert reasons == {"GPU-a": baseline.SHARED, "GPU-b": baseline.SHARED, "GPU-c": None}


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
