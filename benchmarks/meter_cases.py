"""The machines that `meter_accuracy.py` has meters measure, and what they are asked for on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import standin  # noqa: F401 - lets the tests' scenarios be found
from meter_tools import Job

from tests.nvml.scenario import Constant, Gpu, Scenario, Square

Windows = Sequence[tuple[float, float]]
"""Beginning and end of each, in the scenario's time."""

UUID: Final = "GPU-4e817856-1fb8-192a-7ab7-0e0e4476c184"
OTHER_UUID: Final = "GPU-9c1d2f00-77aa-4b3e-9d10-5a5b5c5d5e5f"
INSTANCE: Final = "MIG-2f6d3a10-0b1c-5d4e-8f90-a1b2c3d4e5f6"

STEADY: Final = Constant(420)
BURSTS: Final = Square(period_s=0.73, duty=0.45, high_w=650, low_w=90)
"""A second holds one burst and a part of the next."""

IDLE_W, BUSY_W = 70.0, 650.0


@dataclass(frozen=True)
class Case:
    """A machine, a job on it, and its windows.

    Attributes:
        name: for people.
        seconds: length of a window.
        repeats: number of windows.
        machine: its GPUs, given the windows.
        job: what is measured.
        index: NVML's, of the job's GPU.
        knowable: whether the joules can be known at all.
    """

    name: str
    seconds: float
    repeats: int
    machine: Callable[[Windows], Scenario]
    job: Job = field(default_factory=Job)
    index: int = 0
    knowable: bool = True


def one(power: Constant | Square, *further: str) -> Callable[[Windows], Scenario]:
    """A machine with one GPU."""
    return lambda _: Scenario((Gpu(UUID, power),), further)


def two(*further: str) -> Callable[[Windows], Scenario]:
    """A neighbour in bursts at 0, and the job's GPU at 1."""
    return lambda _: Scenario((Gpu(OTHER_UUID, BURSTS), Gpu(UUID, STEADY)), further)


def middle(window: tuple[float, float]) -> float:
    return sum(window) / 2


def with_its_window(windows: Windows) -> Scenario:
    """A GPU that is at work in the windows alone."""
    edges = [(at_s, Constant(power_w)) for window in windows for at_s, power_w in zip(window, (BUSY_W, IDLE_W))]  # noqa: B905
    return Scenario((Gpu(UUID, Constant(IDLE_W), tuple(edges)),))


def resetting(windows: Windows) -> Scenario:
    return Scenario((Gpu(UUID, STEADY),), tuple(f"reset 0 {middle(window)}" for window in windows))


def lost(windows: Windows) -> Scenario:
    return Scenario((Gpu(UUID, STEADY),), (f"lost 0 {middle(windows[0])}",))


CASES: Final = {
    "steady": Case("steady 420 W, 10 s", 10, 4, one(STEADY)),
    "bursts": Case("bursts of 650 W, 10 s", 10, 4, one(BURSTS)),
    "second": Case("steady, 1 s", 1, 12, one(STEADY)),
    "second-bursts": Case("bursts, 1 s", 1, 12, one(BURSTS)),
    "second-edges": Case("idle but in the window, 1 s", 1, 12, with_its_window),
    "sensor": Case("bursts, sensor sees 25 of 100 ms, 10 s", 10, 4, one(BURSTS, "sensor 0.025")),
    "power-only": Case("no counter: Pascal, bursts, 10 s", 10, 4, one(BURSTS, "capability 0 6 1", "fail 0 3")),
    "virtual": Case("no counter: newer, virtual, bursts, 10 s", 10, 2, one(BURSTS, "fail 0 3")),
    "two-jobs": Case(
        "two jobs on a node, by CUDA_VISIBLE_DEVICES=1, 5 s", 5, 4, two(), Job(("1",), (0,), (1,), "1", ("0",)), 1
    ),
    "two-jobs-by-code": Case(
        "two jobs on a node, by cuda:1 in the code, 5 s", 5, 4, two(), Job(("1",), (1,), (1,), None, ("0",)), 1
    ),
    "uuid": Case(
        "CUDA_VISIBLE_DEVICES=GPU-<uuid>, 5 s", 5, 4, two(), Job((UUID,), (0,), (UUID,), UUID, (OTHER_UUID,)), 1
    ),
    "reset": Case("counter reset in the window, 5 s", 5, 4, resetting, knowable=False),
    "lost": Case("GPU lost in the window, 8 s", 8, 1, lost, knowable=False),
    "mig": Case(
        "an instance of a GPU with MIG, 5 s",
        5,
        2,
        one(STEADY, f"mig 0 {INSTANCE}"),
        Job((INSTANCE,), (0,), (INSTANCE,), INSTANCE),
        knowable=False,
    ),
}
"""What a shell calls it -> the case."""
