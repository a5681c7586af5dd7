"""What is said about a window: its GPU's context, and marks of what speaks against its figure."""

import pytest

from energyaware.energy.base import GpuState
from energyaware.energy.baseline import Baseline
from tests.energyaware.scripted import GPU_A, IDLE_W, Node, by_channel

STATE = GpuState(
    power_w=100, power_limit_w=700, temperature_c=50, clock_sm_mhz=1000, clock_memory_mhz=2000, throttle_reasons=(),
    pids=(1,), power_integral_j=0.0,
)  # fmt: skip


def seen(first, last, seconds=10.0):
    """The row of a GPU over a window whose first and last states are these."""
    node = Node()
    node.begin(gpus=["GPU-a"])
    token = node.open()
    node.ledger.see({"GPU-a": first, "GPU-b": first})
    node.now_s += seconds
    node.ledger.see({"GPU-a": last})
    node.close(token)
    return by_channel(node.end(), "train")["gpu", "GPU-a"]


def changed(**values):
    from dataclasses import replace

    return replace(STATE, **values)


def test_a_window_has_its_gpus_context():
    row = seen(STATE, changed(temperature_c=61, clock_sm_mhz=1400, power_limit_w=650, power_integral_j=1010.0))

    assert row.items() >= {
        "power_integral_j": 1010, "power_limit_w": 650, "temperature_c": 61, "clock_sm_mhz": 1200,
        "clock_memory_mhz": 2000, "throttle_reasons": [], "other_processes": 0, "marks": [],
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "mark"),
    [
        ({"power_limit_w": 90}, "implausible: mean 100 W over the limit of 90 W"),
        ({"power_integral_j": 1200.0}, "disagrees: counter 1000 J, sampled power 1200 J"),
        ({"throttle_reasons": ("hw slowdown", "sw thermal")}, "throttled: hw slowdown, sw thermal"),
        ({"pids": (1, 7, 8)}, "shared: 2 other processes"),
    ],
)
def test_what_speaks_against_a_figure_is_marked(changes, mark):
    assert seen(STATE, changed(**({"power_integral_j": 1000.0} | changes)))["marks"] == [mark]


def test_a_mean_under_idle_power_is_implausible():
    node = Node(Baseline(IDLE_W | {GPU_A: 200.0}))
    node.begin(gpus=["GPU-a"])
    token = node.open()
    node.now_s += 10
    node.close(token)

    marks = by_channel(node.end(), "train")["gpu", "GPU-a"]["marks"]
    assert marks == ["implausible: mean 100 W under idle power, 200 W"]


def test_short_windows_are_marked_and_the_time_around_them_is_not():
    node = Node()
    node.begin()
    token = node.open()
    node.now_s += 4.9
    node.close(token)
    rows = node.end()

    assert by_channel(rows, "train")["cpu", None]["marks"] == ["short"]
    assert by_channel(rows, "other")["cpu", None]["marks"] == []


def test_sampled_power_with_a_gap_is_not_held_against_the_counter():
    row = seen(STATE, changed(power_integral_j=1200.0, power_gaps=1))
    assert (row["power_integral_j"], row["marks"]) == (None, [])
