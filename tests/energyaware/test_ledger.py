"""Whose joules they are: a ledger over a source whose joules are functions of a clock that the test turns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyaware.energy.base import JOULES_PER_KWH, Channel, Reading
from energyaware.energy.ledger import Ledger

CPU = Channel("cpu", None, "scripted", measured=False)
DRAM = Channel("dram", None, "scripted", measured=False)
GPU_A = Channel("gpu", "GPU-a", "scripted counter", measured=True)
GPU_B = Channel("gpu", "GPU-b", "scripted counter", measured=True)

Joules = Callable[[float], float | None]


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Scripted:
    """A source: joules of each channel at a time; None is unreadable. A channel that is taken out has vanished."""

    clock: Clock
    joules: dict[Channel, Joules]
    factor: float | None = None
    closed: bool = False

    def read(self) -> dict[Channel, Reading]:
        values = {channel: joules(self.clock.now_s) for channel, joules in self.joules.items()}
        return {c: Reading(None, "scripted failure") if v is None else Reading(v) for c, v in values.items()}

    def carbon_g_per_kwh(self) -> float | None:
        return self.factor

    def close(self) -> None:
        self.closed = True


@dataclass
class Node:
    """A node with 10 W of CPU, 2 W of DRAM, and GPUs of 100 W and 300 W; `used` is CPU time by process id."""

    clock: Clock = field(default_factory=Clock)
    used: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        watts = {CPU: 10.0, DRAM: 2.0, GPU_A: 100.0, GPU_B: 300.0}
        self.source = Scripted(self.clock, {channel: self.power(w) for channel, w in watts.items()})
        self.ledger = Ledger("node-1", [self.source], self.cpu_time, self.clock)

    @staticmethod
    def power(watts: float) -> Joules:
        return lambda now_s: watts * now_s

    def cpu_time(self, pids: Sequence[int]) -> float:
        return sum(self.used.get(pid, 0.0) for pid in pids)

    def open(self, stage: str = "a", pids: Sequence[int] = (1,), gpus: Sequence[str] = (), attempt: int = 1) -> int:
        return self.ledger.open(stage, attempt, "train", 1, pids, gpus)

    def collect(self, stage: str = "a", *, kept: bool = True, attempt: int = 1) -> dict[tuple[str, str | None], dict]:
        rows = self.ledger.collect(stage, attempt, kept=kept)
        assert len(rows) == len({(row["component"], row["device"]) for row in rows}), "one window, one row a channel"
        return {(row["component"], row["device"]): row for row in rows}

    def window(self, seconds: float = 5.0, gpus: Sequence[str] = ("GPU-a",)) -> dict[tuple[str, str | None], dict]:
        """Rows of one healthy window."""
        token = self.open("later", gpus=gpus)
        self.clock.now_s += seconds
        self.ledger.close(token)
        return self.collect("later")


def test_a_window_gets_the_joules_of_its_time_and_idle_the_rest():
    node = Node()
    node.clock.now_s += 3
    token = node.open(gpus=["GPU-a"])
    node.clock.now_s += 5
    node.ledger.close(token)
    node.clock.now_s += 2

    rows = node.collect()
    idle = {(row["component"], row["device"]): row for row in node.ledger.collect_idle()}

    assert {key: row["energy_j"] for key, row in rows.items()} == pytest.approx(
        {("cpu", None): 50, ("dram", None): 10, ("gpu", "GPU-a"): 500}
    )
    assert {key: row["energy_j"] for key, row in idle.items()} == pytest.approx(
        {("cpu", None): 50, ("dram", None): 10, ("gpu", "GPU-a"): 500, ("gpu", "GPU-b"): 3000}
    )
    row = rows["gpu", "GPU-a"]
    assert row.items() >= {
        "stage_id": "a", "attempt": 1, "node": "node-1", "window": "train", "epoch": 1, "source": "scripted counter",
        "measured": True, "kept": True, "reason": None, "carbon_g": None,
    }.items()  # fmt: skip
    assert row["duration_s"] == 5
    assert idle["cpu", None].items() >= {"stage_id": None, "attempt": None, "window": "idle", "measured": False}.items()
    assert idle["cpu", None]["duration_s"] == 5
    assert node.ledger.collect_idle()[0]["energy_j"] == 0, "idle time is given out once"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_and_idle_add_up_to_the_node(data: st.DataObject):
    node = Node()
    began_s = node.clock.now_s
    tokens: list[int] = []
    opened = 0
    for _ in range(data.draw(st.integers(1, 25), label="events")):
        node.clock.now_s += data.draw(st.floats(0, 10), label="seconds")
        for pid in range(4):
            node.used[pid] = node.used.get(pid, 0.0) + data.draw(st.floats(0, 3), label="cpu seconds")
        event = data.draw(st.sampled_from(["open", "close", "tick"]))
        if event == "open" and len(tokens) < 4:
            gpus = data.draw(st.sets(st.sampled_from(["GPU-a", "GPU-b"])), label="gpus")
            tokens.append(node.open(f"stage-{opened}", pids=[opened % 4], gpus=sorted(gpus)))
            opened += 1
        elif event == "close" and tokens:
            node.ledger.close(tokens.pop(data.draw(st.integers(0, len(tokens) - 1), label="which")))
        else:
            node.ledger.tick()

    rows = [row for n in range(opened) for row in node.ledger.collect(f"stage-{n}", 1, kept=True)]
    rows += node.ledger.collect_idle()

    elapsed_s = node.clock.now_s - began_s
    assert all(row["energy_j"] >= 0 for row in rows)
    for channel, watts in {CPU: 10, DRAM: 2, GPU_A: 100, GPU_B: 300}.items():
        given_j = [r["energy_j"] for r in rows if (r["component"], r["device"]) == (channel.component, channel.device)]
        assert math.fsum(given_j) == pytest.approx(watts * elapsed_s, rel=1e-9, abs=1e-6)


def test_simultaneous_windows_share_the_cpu_by_cpu_time_taken_anew_at_each_reading():
    node = Node()
    a, b = node.open("a", pids=[1]), node.open("b", pids=[2, 3])
    node.clock.now_s += 10  # 100 J: one to three
    node.used |= {1: 1.0, 2: 2.0, 3: 1.0}
    node.ledger.tick()
    node.clock.now_s += 10  # 100 J: all to a
    node.used[1] += 7.0
    node.ledger.tick()
    node.clock.now_s += 10  # 100 J: nobody computed, equal parts
    node.ledger.close(a)
    node.ledger.close(b)

    assert node.collect("a")["cpu", None]["energy_j"] == pytest.approx(25 + 100 + 50)
    assert node.collect("b")["cpu", None]["energy_j"] == pytest.approx(75 + 0 + 50)


def test_cpu_time_from_before_the_window_does_not_count():
    node = Node(used={1: 1000.0})
    node.open("a", pids=[1])
    node.open("b", pids=[2])
    node.clock.now_s += 10
    node.used |= {1: 1001.0, 2: 1.0}

    assert node.collect("a")["cpu", None]["energy_j"] == pytest.approx(50)


def test_a_process_that_died_takes_no_negative_share():
    node = Node(used={1: 50.0})
    node.open("a", pids=[1])
    node.open("b", pids=[2])
    node.clock.now_s += 10
    node.used = {2: 3.0}

    assert node.collect("a")["cpu", None]["energy_j"] == pytest.approx(0, abs=1e-6)
    assert node.collect("b")["cpu", None]["energy_j"] == pytest.approx(100)


def test_joules_of_a_gpu_go_to_the_stage_that_holds_it_alone():
    node = Node()
    node.open("a", pids=[1], gpus=["GPU-a"])
    node.open("b", pids=[2], gpus=["GPU-b"])
    node.open("c", pids=[3])
    node.clock.now_s += 10
    node.used |= {1: 0.0, 2: 9.0, 3: 1.0}

    a, b, c = node.collect("a"), node.collect("b"), node.collect("c")
    assert a["gpu", "GPU-a"]["energy_j"] == pytest.approx(1000)
    assert b["gpu", "GPU-b"]["energy_j"] == pytest.approx(3000)
    assert ("gpu", "GPU-b") not in a
    assert ("gpu", "GPU-a") not in b
    assert {component for component, _ in c} == {"cpu", "dram"}


def fails(now_s: float) -> float | None:
    return None


def not_a_number(now_s: float) -> float | None:
    return math.nan


def reset(now_s: float) -> float | None:
    return 0.5


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(fails, "scripted failure"), (not_a_number, "not a number"), (reset, "went backwards")],
)
def test_a_bad_reading_gives_null_with_the_reason_to_the_windows_open_then_and_to_no_other(broken, reason):
    node = Node()
    healthy = node.source.joules[GPU_A]
    token = node.open(gpus=["GPU-a"])
    node.clock.now_s += 5
    node.source.joules[GPU_A] = broken
    node.ledger.tick()
    node.clock.now_s += 5
    node.source.joules[GPU_A] = healthy
    node.ledger.close(token)

    rows = node.collect()
    assert rows["gpu", "GPU-a"]["energy_j"] is None
    assert reason in rows["gpu", "GPU-a"]["reason"]
    assert rows["gpu", "GPU-a"]["carbon_g"] is None
    assert rows["cpu", None]["energy_j"] == pytest.approx(100), "a channel's failure is its own"
    assert node.window()["gpu", "GPU-a"]["energy_j"] == pytest.approx(500), "the next window is sound again"


def test_a_channel_that_vanished_is_null_also_in_windows_that_never_saw_it():
    node = Node()
    node.open("a", gpus=["GPU-a"])
    node.clock.now_s += 5
    del node.source.joules[GPU_A]
    rows = node.collect("a")
    assert rows["gpu", "GPU-a"]["energy_j"] is None
    assert "vanished" in rows["gpu", "GPU-a"]["reason"]

    row = node.window()["gpu", "GPU-a"]
    assert row["energy_j"] is None
    assert row["reason"] == "no source reads this GPU"
    assert row["measured"] is False


def test_a_clock_that_goes_backwards_gives_null_and_no_negative_time():
    node = Node()
    node.source.joules = {CPU: lambda _: 7.0}  # still counting up: only the clock is wrong
    token = node.open()
    node.clock.now_s -= 5
    node.ledger.close(token)

    row = node.collect()["cpu", None]
    assert row["energy_j"] is None
    assert row["reason"] == "the clock went backwards"
    assert row["duration_s"] == 0


def test_collect_closes_what_is_open_and_forgets_the_attempt_alone():
    node = Node()
    node.open("a", attempt=1)
    node.open("a", attempt=2)
    node.open("b", attempt=1)
    node.clock.now_s += 6

    lost = node.collect("a", kept=False)
    assert lost["cpu", None]["energy_j"] == pytest.approx(20)
    assert lost["cpu", None]["kept"] is False
    assert node.collect("a") == {}, "given out once"
    assert {stage for stage, *_ in node.ledger.now()["open"]} == {"a", "b"}

    node.clock.now_s += 4
    again = node.collect("a", attempt=2)
    assert again["cpu", None]["energy_j"] == pytest.approx(20 + 20)
    assert again["cpu", None]["kept"] is True
    assert again["cpu", None]["attempt"] == 2
    assert again["cpu", None]["duration_s"] == 10


def test_progress_shows_open_windows_and_their_joules():
    node = Node()
    node.open("a", gpus=["GPU-a"])
    node.clock.now_s += 2
    node.ledger.tick()

    assert node.ledger.now() == {"open": [("a", "train", 1, 2.0)], "joules": {"a": pytest.approx(20 + 4 + 200)}}


def test_carbon_comes_from_the_factor_of_the_first_source_that_knows_one():
    clock = Clock()
    silent = Scripted(clock, {GPU_A: Node.power(36.0)})
    knowing = Scripted(clock, {CPU: Node.power(3.6)}, factor=500.0)
    ledger = Ledger("node-1", [silent, knowing], lambda _: 0.0, clock)
    ledger.open("a", 1, "decode", None, [1], ["GPU-a"])
    clock.now_s += 100

    rows = {row["component"]: row for row in ledger.collect("a", 1, kept=True)}
    assert rows["cpu"]["carbon_g"] == pytest.approx(360 / JOULES_PER_KWH * 500)
    assert rows["gpu"]["carbon_g"] == pytest.approx(3600 / JOULES_PER_KWH * 500)
    ledger.shut()
    assert silent.closed
    assert knowing.closed
