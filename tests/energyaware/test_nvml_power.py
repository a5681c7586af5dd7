"""Joules from integrated power, and what becomes of them when the driver or the machine falters."""

import itertools
import subprocess
import sys
import time

import pytest

from energyaware.energy.nvml import NvmlSource
from tests.nvml.clock import now_s, restart, start_s, wait_until
from tests.nvml.scenario import Constant, Gpu, Ramp, Scenario
from tests.nvml.simulated import Simulated

pytest_plugins = "tests.nvml.plugin"

STEADY = Scenario(
    (
        Gpu("GPU-constant", Constant(300.0)),
        Gpu("GPU-ramp", Ramp(6.0, 0.0, 600.0)),  # steep enough to tell a trapezoid from a rectangle
        Gpu("GPU-usage", Constant(120.0)),
        Gpu("GPU-both", Ramp(20.0, 500.0, 80.0)),
    ),
    ("fail 0 3", "fail 1 3", "fail 2 3", "fail-instant 2 3", "step 0.001"),
)


def measure_steady():
    """Measured joules over the true ones by UUID, and sampled power over the counter of the GPU that has both."""
    ratios = {}
    restart()
    with NvmlSource() as source:
        first, first_j = source.read(), source.state("GPU-both").power_integral_j
        time.sleep(3.0)
        last, last_j = source.read(), source.state("GPU-both").power_integral_j
    for index, channel in enumerate(source.channels):
        truth_j = STEADY.energy_j(index, first[channel].at_s, last[channel].at_s, start_s())
        ratios[channel.device] = (last[channel].energy_j - first[channel].energy_j) / truth_j
    both = source.channels[3]
    return ratios, (last_j - first_j) / (last[both].energy_j - first[both].energy_j)


def test_integrated_power_is_within_two_percent_of_the_truth(gpus):
    ratios, agreement = gpus.call(measure_steady, *STEADY.lines())
    assert ratios == {gpu.uuid: pytest.approx(1, rel=0.02) for gpu in STEADY.gpus}
    assert agreement == pytest.approx(1, rel=0.02)


BAD_S, GOOD_S = 1.5, 2.0
"""When power turns unreadable, and when it is back."""

EDGE_S = 0.1
"""How far a reading's time may be off, should the process be held up in the middle of it."""

GARBAGE = "NVML: implausible power, 4294967 W"

FALTERING = Scenario(
    (
        Gpu("GPU-garbage", Constant(250.0)),
        Gpu("GPU-unread", Ramp(20.0, 80.0, 500.0)),
        Gpu("GPU-seldom", Constant(90.0)),
        Gpu("GPU-counter", Constant(400.0)),
    ),
    (
        *("fail 0 3", "fail 1 3", "fail 2 3", "step 0.001"),
        *(f"garbage 0 {BAD_S} {GOOD_S}", f"fail-power 1 999 {BAD_S} {GOOD_S}"),
        *(f"garbage 2 {BAD_S} {GOOD_S}", f"garbage 3 {BAD_S} {GOOD_S}"),
    ),
)


def falter():
    """Readings of two GPUs and the state of a third, all the time; of one more GPU only well before and after."""
    readings, states = [], []
    restart()
    with NvmlSource() as source:
        garbage, unread, seldom, _ = source.channels
        seldom_read = source.read({seldom})
        while now_s() < GOOD_S + 1.0:
            readings.append([[r.at_s, r.energy_j, r.reason] for r in source.read([garbage, unread]).values()])
            state = source.state("GPU-counter")
            states.append([time.monotonic(), state.power_w, state.power_integral_j, state.power_gaps])
            time.sleep(0.05)
        seldom_reads = [seldom_read[seldom], source.read({seldom})[seldom]]
        time.sleep(0.5)
        seldom_reads.append(source.read({seldom})[seldom])
        counter = source.read()[source.channels[3]]
    return readings, states, [[r.at_s, r.energy_j, r.reason] for r in seldom_reads], counter.reason


@pytest.fixture(scope="module")
def faltered(nvml_library, tmp_path_factory):
    gpus = Simulated(nvml_library, tmp_path_factory.mktemp("faltering"))
    return *gpus.call(falter, *FALTERING.lines()), gpus.start_s


@pytest.mark.parametrize(("index", "reason"), [(0, GARBAGE), (1, "NVML: power: Unknown Error")])
def test_power_that_cannot_be_trusted_gives_no_joules_and_later_ones_are_sound(faltered, index, reason):
    readings, _, _, _, start = faltered
    series = [row[index] for row in readings]

    for at_s, energy_j, why in series:
        if BAD_S + EDGE_S < at_s - start < GOOD_S - EDGE_S:
            assert energy_j is None
        if energy_j is None:
            assert at_s - start > BAD_S - EDGE_S
            assert why == reason
    sound = [(a, b) for a, b in itertools.pairwise(series) if a[1] is not None and b[1] is not None]
    assert not [a for a, b in sound if a[0] - start < BAD_S and b[0] - start > GOOD_S]
    before = [pair for pair in sound if pair[1][0] - start < BAD_S]
    after = [pair for pair in sound if pair[0][0] - start > GOOD_S]
    for stretch in (before, after):
        (from_s, from_j, _), (until_s, until_j, _) = stretch[0][0], stretch[-1][1]
        truth_j = FALTERING.energy_j(index, from_s, until_s, start)
        assert until_j - from_j == pytest.approx(truth_j, rel=0.05, abs=1)


def test_a_gap_between_two_readings_is_told_once(faltered):
    _, _, (before, after, later), _, start = faltered
    assert before[1] is not None
    assert after[1:] == [None, GARBAGE], "though its power was known again by then"
    assert later[1] is not None
    assert later[1] > before[1]
    assert later[0] - start > GOOD_S


def test_a_gap_in_the_integral_that_checks_a_counter_is_counted_and_the_counter_goes_on(faltered):
    _, states, _, counter_reason, start = faltered
    assert counter_reason is None
    for at_s, power_w, integral_j, gaps in states:
        assert power_w in {None, 400}
        assert (power_w is None) == (integral_j is None)
        assert gaps == 0 or at_s - start > BAD_S - EDGE_S
    assert states[0][3] == 0
    assert states[-1][3] >= 1
    for (from_s, _, from_j, from_gaps), (until_s, _, until_j, until_gaps) in itertools.pairwise(states):
        if from_gaps == until_gaps and None not in {from_j, until_j}:
            assert until_j - from_j == pytest.approx(400 * (until_s - from_s), rel=0.5, abs=40)


def hold_up():
    """Readings before and after this very process was stopped for 1.5 s."""
    with NvmlSource() as source:
        (channel,) = source.channels
        first = source.read()[channel]
        stop = "import os, signal, time; os.kill(os.getppid(), signal.SIGSTOP); time.sleep(1.5)"
        subprocess.run([sys.executable, "-c", f"{stop}; os.kill(os.getppid(), signal.SIGCONT)"], check=True)
        time.sleep(0.3)
        second, third = source.read()[channel], source.read()[channel]
        return [first.energy_j, second.energy_j, second.reason, third.energy_j, source.state("GPU-a").power_gaps]


def test_power_while_the_process_was_held_up_is_not_guessed(gpus):
    first_j, second_j, reason, third_j, gaps = gpus.call(hold_up, "gpu GPU-a 200", "fail 0 3")
    assert first_j is not None
    assert second_j is None
    assert reason.startswith("power was not sampled for ")
    assert third_j > first_j
    assert gaps >= 1


LEFT_S = 1.8


def leave():
    """Joules and reasons by GPU a while before and after one of them left the bus and another's counter was reset."""
    restart()
    with NvmlSource() as source:
        wait_until(LEFT_S - 0.5)
        before = source.read()
        wait_until(LEFT_S + 0.1)
        after = source.read()
        state = source.state("GPU-b")
        return {
            channel.device: [before[channel].energy_j, after[channel].energy_j, after[channel].reason]
            for channel in source.channels
        }, vars(state)


def test_a_gpu_that_falls_off_the_bus_says_so_and_the_others_are_read(gpus):
    seen, state = gpus.call(
        leave,
        *("step 0.001", "gpu GPU-a 250", "gpu GPU-b 100", "gpu GPU-c 100", "gpu GPU-d 50", "fail 2 3"),
        *(f"lost 1 {LEFT_S}", f"lost 2 {LEFT_S}", f"reset 3 {LEFT_S}"),
    )

    assert seen["GPU-a"][2] is None
    assert seen["GPU-a"][1] > seen["GPU-a"][0]
    assert seen["GPU-b"][1:] == [None, "NVML: GPU is lost"]
    assert seen["GPU-c"][1:] == [None, "NVML: power: GPU is lost"]
    assert seen["GPU-d"][1] < seen["GPU-d"][0], "a counter is told as it is: who takes differences sees the reset"
    assert state.pop("power_gaps") >= 1
    assert set(state.values()) == {None}
