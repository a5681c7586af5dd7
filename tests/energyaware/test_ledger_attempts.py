"""Attempts that begin and end, and windows that they open and close."""

import pytest

from energyaware.errors import StageError
from tests.energyaware.scripted import Node, by_channel, joules


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
