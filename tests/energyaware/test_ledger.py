"""Whose joules they are: a ledger over a source whose joules are functions of a clock that the test turns."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyaware.energy.base import JOULES_PER_KWH
from energyaware.energy.baseline import Baseline
from energyaware.energy.carbon import Factors
from tests.energyaware.scripted import CPU, GPU_A, IDLE_W, WATTS, Node, by_channel, joules


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


def test_a_clock_that_goes_backwards_gives_null_and_no_negative_time():
    node = Node()
    node.source.joules[CPU] = lambda _: 7.0  # still counting up: only the clock is wrong
    node.begin()
    token = node.open()
    node.now_s -= 5
    node.close(token)
    row = by_channel(node.end(), "train")["cpu", None]

    assert row.items() >= {"energy_j": None, "reason": "the clock went backwards", "duration_s": 0}.items()


def test_carbon_and_cost_follow_the_factors():
    node = Node(factors=Factors(500.0, "a test", 1.5, 0.30, "EUR"))
    row = node.window(36.0, gpus=["GPU-a"])["gpu", "GPU-a"]

    assert row["energy_j"] == 3600
    assert row["carbon_g"] == pytest.approx(3600 / JOULES_PER_KWH * 500)
    assert row["cost"] == pytest.approx(3600 / JOULES_PER_KWH * 0.30 * 1.5)
