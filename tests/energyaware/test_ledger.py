"""Whose joules they are: a ledger over a source whose joules are functions of a clock that the test turns."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyaware.energy.base import JOULES_PER_KWH, Channel, GpuState, Reading
from energyaware.energy.baseline import Baseline
from energyaware.energy.carbon import Factors
from energyaware.energy.ledger import Ledger
from energyaware.energy.window import Window
from energyaware.errors import StageError

CPU = Channel("cpu", None, "scripted", measured=True)
DRAM = Channel("dram", None, "scripted model", measured=False)
GPU_A = Channel("gpu", "GPU-a", "scripted counter", measured=True)
GPU_B = Channel("gpu", "GPU-b", "scripted counter", measured=True)
WATTS = {CPU: 10.0, DRAM: 2.0, GPU_A: 100.0, GPU_B: 300.0}
IDLE_W = {CPU: 4.0, DRAM: 2.0, GPU_A: 60.0, GPU_B: 60.0}
CORES = 8

Joules = Callable[[float], float | None]


@dataclass
class Scripted:
    """A source: joules of each channel at a time; None is unreadable. A channel that is taken out has vanished."""

    node: "Node"
    joules: dict[Channel, Joules]
    prompt: bool = True

    @property
    def channels(self) -> tuple[Channel, ...]:
        return tuple(self.joules)

    def read(self, channels: Collection[Channel] | None = None) -> dict[Channel, Reading]:
        values = {c: joules(self.node.now_s) for c, joules in self.joules.items() if channels is None or c in channels}
        return {c: Reading(None, "scripted failure") if v is None else Reading(v) for c, v in values.items()}

    def step_s(self, channel: Channel) -> float:
        return 0.0

    def close(self) -> None: ...


@dataclass
class Node:
    """A node with 10 W of CPU, 2 W of DRAM, and GPUs of 100 W and 300 W; `used` is CPU time by process id."""

    baseline: Baseline = field(default_factory=lambda: Baseline(IDLE_W))
    factors: Factors = field(default_factory=lambda: Factors(None, "", 1.0, None, None))
    now_s: float = 100.0
    used: dict[int, float] = field(default_factory=dict)
    others_s: float = 0.0
    gpus_left_out: int | None = None

    def __post_init__(self) -> None:
        kept = [channel for channel in WATTS if self.gpus_left_out is None or channel.component != "gpu"]
        self.source = Scripted(self, {channel: self.power(WATTS[channel]) for channel in kept})
        common = {"run": "r", "node": "node-1"}
        self.ledger = Ledger(
            *(common, [self.source], self, CORES, self.baseline, self.factors, lambda name: f"{name} is odd"),
            *(self.now_s, self.gpus_left_out),
        )

    @staticmethod
    def power(watts: float) -> Joules:
        return lambda now_s: watts * now_s

    def cpu_time_s(self, pids: Sequence[int]) -> float:
        return sum(self.used.get(pid, 0.0) for pid in pids)

    def machine_busy_s(self) -> float:
        return sum(self.used.values()) + self.others_s

    def begin(self, stage="a", pids=(1,), gpus=(), cores=2.0, attempt=1):
        self.ledger.begin({"stage_id": stage, "attempt": attempt}, pids, gpus, cores, self.now_s)

    def open(self, stage="a", name="train", epoch=1, attempt=1):
        return self.ledger.open((stage, attempt), Window(name, stage, attempt, epoch), self.now_s)

    def close(self, token, requests=None):
        self.ledger.close(token, requests, self.now_s)

    def end(self, stage="a", *, attempt=1, kept=True):
        self.ledger.end((stage, attempt), self.now_s)
        return self.ledger.rows((stage, attempt), kept=kept)

    def window(self, seconds=10.0, stage="later", **held):
        """Rows of one window of an attempt of its own."""
        self.begin(stage, **held)
        token = self.open(stage)
        self.now_s += seconds
        self.close(token)
        return by_channel(self.end(stage), "train")

    def own(self, window):
        return by_channel(self.ledger.snapshot()["energy"], window)


def by_channel(rows, window):
    found = {(row["component"], row["device"]): row for row in rows if row["window"] == window}
    assert len(found) == sum(row["window"] == window for row in rows), "one window, one row a channel"
    return found


def joules(rows):
    return {key: row["energy_j"] for key, row in rows.items()}


def test_a_window_gets_the_joules_of_its_time_and_other_what_lies_around_it():
    node = Node()
    node.now_s += 3
    node.begin(gpus=["GPU-a"], cores=8)
    node.now_s += 1  # loading
    node.used[1] = 1.0
    token = node.open()
    node.now_s += 5
    node.used[1] = 11.0
    node.close(token, requests=64)
    node.now_s += 2
    rows = node.end()
    node.now_s += 4
    node.ledger.tick(node.now_s)

    # The one GPU of two that it holds stands for half of the idle CPU; on top it is the only one that computed.
    train, other = by_channel(rows, "train"), by_channel(rows, "other")
    assert joules(train) == pytest.approx({("cpu", None): 5 * (2 + 6), ("dram", None): 5 * 1, ("gpu", "GPU-a"): 500})
    assert joules(other)["gpu", "GPU-a"] == pytest.approx(300)
    assert other["cpu", None]["duration_s"] == 3
    assert joules(node.own("idle"))["gpu", "GPU-a"] == pytest.approx(700)
    assert joules(node.own("idle"))["gpu", "GPU-b"] == pytest.approx(4500)
    assert train["gpu", "GPU-a"].items() >= {
        "run": "r", "stage_id": "a", "attempt": 1, "node": "node-1", "window": "train", "epoch": 1, "requests": 64,
        "source": "scripted counter", "measured": True, "kept": True, "reason": None, "carbon_g": None, "cost": None,
        "duration_s": 5, "power_w": 100, "marks": [],
    }.items()  # fmt: skip
    assert {row["kept"] for row in node.end("nobody")} == set()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_stages_idle_and_unattributed_add_up_to_the_node(data):
    baseline = data.draw(st.sampled_from([Baseline(IDLE_W), Baseline(), Baseline({CPU: 50.0})]), label="idle power")
    node = Node(baseline)
    began_s, open_tokens, busy, rows = node.now_s, {}, set(), []
    for step in range(data.draw(st.integers(1, 25), label="events")):
        node.now_s += data.draw(st.floats(0, 10), label="seconds")
        node.others_s += data.draw(st.floats(0, 3), label="seconds of others")
        for pid in range(4):
            node.used[pid] = node.used.get(pid, 0.0) + data.draw(st.floats(0, 3), label="cpu seconds")
        stage, event = f"stage-{step % 4}", data.draw(st.sampled_from(["begin", "open", "close", "end", "tick"]))
        if event == "begin" and stage not in busy:
            gpus = {"stage-0": ["GPU-a"], "stage-1": ["GPU-b"]}.get(stage, [])
            node.begin(stage, [step % 4], gpus, data.draw(st.floats(0.5, 8), label="cores"), attempt=step)
            busy.add(stage)
            open_tokens[stage] = (step, None)
        elif event == "open" and stage in busy and open_tokens[stage][1] is None:
            attempt = open_tokens[stage][0]
            open_tokens[stage] = (attempt, node.open(stage, attempt=attempt))
        elif event == "close" and stage in busy and open_tokens[stage][1] is not None:
            node.close(open_tokens[stage][1])
            open_tokens[stage] = (open_tokens[stage][0], None)
        elif event == "end" and stage in busy:
            attempt = open_tokens[stage][0]
            rows += node.end(stage, attempt=attempt)
            node.ledger.forget((stage, attempt))
            busy.remove(stage)
        else:
            node.ledger.tick(node.now_s)
    node.ledger.tick(node.now_s)
    last = node.ledger.snapshot()
    rows += last["energy"]

    for channel, watts in WATTS.items():
        given_j = [r["energy_j"] for r in rows if (r["component"], r["device"]) == (channel.component, channel.device)]
        assert all(value >= 0 for value in given_j)
        assert math.fsum(given_j) == pytest.approx(watts * (node.now_s - began_s), rel=1e-9, abs=1e-6)
    for row in last["nodes"]:
        assert row["reason"] is None
        assert row["difference"] == pytest.approx(0, abs=1e-9)
        parts = row["stages_j"], row["idle_j"], row["unattributed_j"]
        assert math.fsum(parts) == pytest.approx(row["energy_j"], abs=1e-6)


def test_what_comes_on_top_of_idle_goes_by_cpu_time_taken_anew_at_each_reading():
    node = Node(Baseline())  # no idle power known: all joules are split by CPU time
    node.begin("a", pids=[1])
    node.begin("b", pids=[2, 3])
    node.now_s += 10  # 100 J: one to three
    node.used |= {1: 1.0, 2: 2.0, 3: 1.0}
    node.ledger.tick(node.now_s)
    node.now_s += 10  # 100 J: half to a, half to processes of no stage
    node.used[1] += 3.0
    node.others_s += 3.0
    node.ledger.tick(node.now_s)

    assert by_channel(node.end("a"), "other")["cpu", None]["energy_j"] == pytest.approx(25 + 50)
    assert by_channel(node.end("b"), "other")["cpu", None]["energy_j"] == pytest.approx(75)
    assert joules(node.own("unattributed"))["cpu", None] == pytest.approx(50)


@pytest.mark.parametrize(
    ("held", "share"),
    [
        ({"cores": 2.0}, 2 / 8),
        ({"cores": 2.0, "gpus": ["GPU-b"]}, 1 / 2),
        ({"cores": 1.0, "gpus": ["GPU-a", "GPU-b"]}, 1),
    ],
)
def test_idle_power_goes_by_share_of_gpus_or_of_cores_where_none_is_held(held, share):
    node = Node()
    node.others_s = 1e9  # others did all the computing
    node.begin(**held)
    node.now_s += 10
    node.others_s += 10

    assert by_channel(node.end(), "other")["cpu", None]["energy_j"] == pytest.approx(40 * share)
    assert joules(node.own("idle"))["cpu", None] == pytest.approx(40 * (1 - share))
    assert joules(node.own("unattributed"))["cpu", None] == pytest.approx(60)


def test_cpu_time_from_before_the_attempt_does_not_count():
    node = Node(Baseline(), used={1: 1000.0})
    node.begin("a", pids=[1])
    node.begin("b", pids=[2])
    node.now_s += 10
    node.used |= {1: 1001.0, 2: 1.0}

    assert by_channel(node.end("a"), "other")["cpu", None]["energy_j"] == pytest.approx(50)


def test_net_is_beyond_the_idle_power_of_what_is_held():
    node = Node()
    node.begin(gpus=["GPU-b"], cores=8)
    token = node.open()
    node.now_s += 10
    node.used[1] = 1.0
    node.close(token)
    rows = by_channel(node.end(), "train")

    assert {key: row["energy_net_j"] for key, row in rows.items()} == pytest.approx(
        {("cpu", None): 60, ("dram", None): 0, ("gpu", "GPU-b"): 3000 - 600}
    )
    assert all(row["energy_net_j"] is None for row in Node(Baseline()).window(gpus=["GPU-b"]).values())
    busy = Baseline(IDLE_W, {CPU: "the node was busy"})
    assert Node(busy).window()["cpu", None]["energy_net_j"] is None


def test_joules_of_a_gpu_go_to_the_attempt_that_holds_it_alone():
    node = Node()
    node.begin("a", pids=[1], gpus=["GPU-a"])
    node.begin("b", pids=[2], gpus=["GPU-b"])
    node.begin("c", pids=[3])
    node.now_s += 10
    node.used |= {1: 0.0, 2: 9.0, 3: 1.0}
    a, b, c = (by_channel(node.end(stage), "other") for stage in "abc")

    assert a["gpu", "GPU-a"]["energy_j"] == pytest.approx(1000)
    assert b["gpu", "GPU-b"]["energy_j"] == pytest.approx(3000)
    assert ("gpu", "GPU-b") not in a
    assert ("gpu", "GPU-a") not in b
    assert {component for component, _ in c} == {"cpu", "dram"}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(lambda _: None, "scripted failure"), (lambda _: math.nan, "not a number"), (lambda _: 0.5, "went backwards")],
)
def test_a_bad_reading_gives_null_with_the_reason_to_the_windows_open_then_and_to_no_other(broken, reason):
    node = Node()
    healthy = node.source.joules[GPU_A]
    node.begin(gpus=["GPU-a"])
    token = node.open()
    node.now_s += 5
    node.source.joules[GPU_A] = broken
    node.ledger.tick(node.now_s)
    node.now_s += 5
    node.source.joules[GPU_A] = healthy
    node.close(token)
    rows = by_channel(node.end(), "train")

    assert rows["gpu", "GPU-a"]["energy_j"] is None
    assert reason in rows["gpu", "GPU-a"]["reason"]
    assert rows["gpu", "GPU-a"].items() >= {"carbon_g": None, "energy_net_j": None, "power_w": None}.items()
    assert rows["cpu", None]["energy_j"] is not None, "a channel's failure is its own"
    assert node.window(gpus=["GPU-a"])["gpu", "GPU-a"]["energy_j"] == pytest.approx(1000), "the next one is sound again"
    (row,) = [row for row in node.ledger.snapshot()["nodes"] if row["device"] == "GPU-a"]
    assert (row["energy_j"], row["difference"]) == (None, None)
    assert reason in row["reason"]


def test_a_gpu_that_no_source_reads_is_null_in_every_window_with_the_reason():
    rows = Node().window(gpus=["MIG-x"])
    assert rows["gpu", "MIG-x"].items() >= {"energy_j": None, "reason": "MIG-x is odd", "measured": False}.items()


def test_gpus_that_are_in_no_figure_have_no_rows_and_still_share_out_idle_power():
    node = Node(gpus_left_out=4)
    node.others_s = 1e9
    node.begin(gpus=["0", "1", "2"], cores=1)
    node.now_s += 10
    node.others_s += 10
    rows = by_channel(node.end(), "other")

    assert joules(rows) == pytest.approx({("cpu", None): 40 * 3 / 4, ("dram", None): 20 * 3 / 4})


def test_an_attempt_that_begins_twice_began_once():
    node = Node()
    for _ in range(2):
        node.begin(gpus=["GPU-a"])
        node.now_s += 5

    assert by_channel(node.end(), "other")["gpu", "GPU-a"]["energy_j"] == pytest.approx(1000)
    node.ledger.tick(node.now_s)
    assert [row["difference"] for row in node.ledger.snapshot()["nodes"]] == pytest.approx([0, 0, 0, 0])


@pytest.mark.parametrize(("first", "second"), ["ab", "ba"])
def test_an_attempt_that_ends_leaves_its_gpu_to_another_that_holds_it(first, second):
    node = Node()
    for stage in "ab":
        node.begin(stage, gpus=["GPU-a"])
    node.end(first)
    node.now_s += 10

    assert by_channel(node.end(second), "other")["gpu", "GPU-a"]["energy_j"] == pytest.approx(1000)
    assert joules(node.own("idle"))["gpu", "GPU-a"] == 0


def test_a_gpu_is_his_who_began_on_it_last_whatever_windows_an_earlier_attempt_still_opens_and_closes():
    node = Node()
    node.begin("early", gpus=["GPU-a"])
    token = node.open("early")
    node.now_s += 10
    node.begin("late", gpus=["GPU-a"])
    node.now_s += 5
    node.close(token)
    node.close(node.open("early", "evaluate"))
    node.now_s += 10

    assert by_channel(node.end("late"), "other")["gpu", "GPU-a"]["energy_j"] == pytest.approx(1500)
    rows = node.end("early")
    assert by_channel(rows, "train")["gpu", "GPU-a"]["energy_j"] == pytest.approx(1000)
    assert by_channel(rows, "evaluate")["gpu", "GPU-a"]["energy_j"] == 0


def test_a_clock_that_goes_backwards_gives_null_and_no_negative_time():
    node = Node()
    node.source.joules[CPU] = lambda _: 7.0  # still counting up: only the clock is wrong
    node.begin()
    token = node.open()
    node.now_s -= 5
    node.close(token)
    row = by_channel(node.end(), "train")["cpu", None]

    assert row.items() >= {"energy_j": None, "reason": "the clock went backwards", "duration_s": 0}.items()


def test_an_attempt_that_ends_with_a_window_open_keeps_its_joules():
    node = Node()
    node.begin("a", gpus=["GPU-a"])
    node.open("a")
    node.now_s += 6
    rows = node.end("a", kept=False)

    assert by_channel(rows, "train")["gpu", "GPU-a"].items() >= {"energy_j": pytest.approx(600), "kept": False}.items()
    assert by_channel(node.ledger.snapshot()["energy"], "train"), "kept until somebody says that they are safe"
    node.ledger.forget(("a", 1))
    assert not by_channel(node.ledger.snapshot()["energy"], "train")
    assert node.end("a") == []


def test_windows_of_one_attempt_follow_each_other():
    node = Node()
    node.begin()
    node.open()
    with pytest.raises(StageError, match="window evaluate opened inside window train"):
        node.open(name="evaluate")
    with pytest.raises(StageError, match="does not know this attempt"):
        node.open("b")
    with pytest.raises(StageError, match="does not know this window"):
        node.close(99)


def test_progress_shows_what_is_open_and_the_attempts_joules():
    node = Node()
    node.begin(gpus=["GPU-a"])
    node.open()
    node.now_s += 2
    node.ledger.tick(node.now_s)

    now = node.ledger.now()
    assert now["open"] == [("a", 1, "train", 1, 2.0)]
    assert now["joules"]["a"] > 200


def test_carbon_and_cost_follow_the_factors():
    node = Node(factors=Factors(500.0, "a test", 1.5, 0.30, "EUR"))
    row = node.window(36.0, gpus=["GPU-a"])["gpu", "GPU-a"]

    assert row["energy_j"] == 3600
    assert row["carbon_g"] == pytest.approx(3600 / JOULES_PER_KWH * 500)
    assert row["cost"] == pytest.approx(3600 / JOULES_PER_KWH * 0.30 * 1.5)


# -- what is said about a window ---------------------------------------------------------------------------------------

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
