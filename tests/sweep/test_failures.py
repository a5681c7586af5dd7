"""What follows from a failure."""

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from energyaware.errors import AuditError, Diverged, Interrupted, MeterLost, OutOfMemory, StorageError
from sweep.failures import LONGEST_BACKOFF_S, Again, Policy, ending, half

POLICY = Policy(retries=2, backoff_s=5.0)


def nothing_lost():
    return None


@pytest.mark.parametrize(
    ("problem", "failure", "state"),
    [
        (OutOfMemory("12 GiB at micro-batch 8"), "out of memory", "oom"),
        (ray.exceptions.OutOfMemoryError("killed"), "out of memory", "oom"),
        (Interrupted("the run was stopped"), "stopped", "interrupted"),
        (StorageError("no space left"), "storage", "interrupted"),
        (Diverged("the loss became nan"), "refused", "diverged"),
        (AuditError("no layer is quantised"), "refused", "failed"),
        (MeterLost("the node's meter died"), "error", "failed"),
        (ValueError("no column text"), "error", "failed"),
        (ray.exceptions.ActorDiedError(), "error", "failed"),
    ],
)
def test_every_problem_is_of_one_class(problem, failure, state):
    end = ending(problem, nothing_lost)
    assert (end.failure, end.state) == (failure, state)
    assert end.reason
    assert "\n" not in end.reason


@pytest.mark.parametrize(
    "problem",
    [
        ray.exceptions.ActorDiedError(),
        MeterLost("died"),
        RuntimeError("[gloo] Connection closed by peer"),
        TimeoutError(),
    ],
)
def test_whatever_a_lost_node_breaks_is_the_node_that_was_lost(problem):
    end = ending(problem, lambda: "node-7")
    assert (end.failure, end.state, end.reason) == ("lost node", "interrupted", "node-7 was lost")


@pytest.mark.parametrize("problem", [ValueError("bad"), AuditError("mask lost"), Diverged("nan"), OutOfMemory("!")])
def test_what_has_nothing_to_do_with_nodes_is_not_blamed_on_one(problem):
    assert ending(problem, lambda: "node-7").failure != "lost node"


def test_errors_are_tried_again_so_often_and_later_each_time():
    assert POLICY.again(["error"], None) == Again(5.0)
    assert POLICY.again(["error", "error"], None) == Again(10.0)
    assert POLICY.again(["error"] * 3, None) is None
    assert Policy(0, 5.0).again(["error"], None) is None


def test_lost_nodes_are_tried_again_without_end_and_use_up_no_retries():
    assert POLICY.again(["lost node"] * 100, None) == Again(LONGEST_BACKOFF_S)
    assert POLICY.again(["lost node"] * 2000, None) == Again(LONGEST_BACKOFF_S)
    assert POLICY.again(["lost node"] * 7 + ["error"], None) == Again(5.0)


def test_memory_is_tried_again_with_half_the_micro_batch_down_to_one_example():
    sizes, failures = [8], ["out of memory"]
    while again := POLICY.again(failures, sizes[-1]):
        assert again.delay_s == 0
        sizes.append(again.micro_batch_size)
        failures.append("out of memory")
    assert sizes == [8, 4, 2, 1]
    assert POLICY.again(["out of memory"], None) is None, "an inference's batch is part of what is measured"


@pytest.mark.parametrize("failure", ["stopped", "storage", "refused"])
def test_nothing_else_is_tried_again(failure):
    assert POLICY.again([failure], 8) is None


@given(st.integers(1, 10_000))
def test_half_of_a_micro_batch_divides_it(size):
    less = half(size)
    assert (less is None) == (size == 1)
    if less:
        assert size % less == 0
        assert less <= size / 2
