"""Joules of what was interrupted and went on: carried, held by a checkpoint, or lost; and what that saved."""

import io
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from analysis import left_out, ranking, status
from analysis.status import as_table
from tests.analysis.builders import START, Lab, tried, window


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")


def printed(lab: Lab) -> str:
    console = Console(width=140, file=io.StringIO())
    console.print(as_table(status(lab.results())))
    return console.file.getvalue()


def train(energy_j: float, step: int, **more) -> dict:
    return {
        "window": "train",
        "energy_j": energy_j,
        "from_step": step,
        "kept": True,
        "epoch": 1,
        "started_at": START + timedelta(seconds=step),
    } | more


def resumed(lab: Lab) -> None:
    """Attempt 1 came to a checkpoint at step 5 and died at step 8; attempt 2 died at once; attempt 3 finished."""
    lab.finetune("ft", energy_j=100.0, attempt=3, carried_attempts=1, energy_other_j=7.0)
    lab.attempt("ft", "interrupted", 1, energy_j=70.0, energy_carried_j=40.0, energy_other_j=5.0, checkpoint_step=5)
    lab.attempt("ft", "interrupted", 2, energy_j=0.0, energy_other_j=3.0)
    lab.attempt("ft", "finished", 3, energy_j=60.0, energy_other_j=7.0, from_step=5)
    lab.energy("ft", train(40.0, 0), train(30.0, 5, kept=False), {"window": "checkpoint", "energy_j": 2.0}, attempt=1)
    lab.energy("ft", train(60.0, 5), {"window": "checkpoint", "energy_j": 7.0, "kept": True}, attempt=3)


def test_carried_joules_are_useful_and_not_lost(lab):
    resumed(lab)
    now = status(lab.results())
    assert (now.useful_energy_j, now.lost_energy_j) == (107.0, 30.0 + 5.0 + 3.0)
    assert (now.carried_energy_j, now.carried_attempts) == (40.0, 1)
    assert now.useful_energy_j + now.lost_energy_j == (70.0 + 5.0) + (0.0 + 3.0) + (60.0 + 7.0)
    assert (now.measured_energy_j, now.estimated_energy_j) == (70.0 + 60.0, 0.0)
    assert now.lost_attempts == 2


def test_what_is_carried_is_what_the_joules_are_made_of(lab):
    lab.finetune("ft", attempt=2, carried_attempts=1)
    lab.energy("ft", train(40.0, 0, measured=False), train(30.0, 5, kept=False, component="dram"), attempt=1)
    lab.energy("ft", train(60.0, 5), {"window": "checkpoint", "component": "gpu", "kept": True}, attempt=2)
    lab.inference("a")
    lab.energy("a", {"window": "decode"})
    row = ranking(lab.results(), allow_mixed=True).collect().row(0, named=True)
    assert (row["energy_kind"], row["made_of"]) == ("mixed", "cpu measured")
    lab.energy("ft", train(40.0, 0), attempt=1)
    assert ranking(lab.results()).collect()["energy_kind"].to_list() == ["measured"]


def test_what_was_carried_into_a_result_that_has_been_replaced_is_lost(lab):
    """Attempt 2 had gone on from attempt 1; attempt 4, which went on from attempt 3, takes its place."""
    lab.finetune("ft", energy_j=90.0, attempt=4, carried_attempts=1)
    lab.attempt("ft", "interrupted", 1, energy_j=50.0, energy_carried_j=30.0)
    lab.attempt("ft", "finished", 2, energy_j=60.0)
    lab.attempt("ft", "interrupted", 3, energy_j=50.0, energy_carried_j=20.0)
    lab.attempt("ft", "finished", 4, energy_j=70.0)
    for attempt, component in enumerate(["a", "b", "c", "d"], start=1):
        lab.energy("ft", train(20.0, 0, component=component), attempt=attempt)
    now = status(lab.results())
    assert (now.useful_energy_j, now.lost_energy_j, now.carried_energy_j) == (90.0, 50.0 + 60.0 + 30.0, 20.0)
    lab.inference("a", measured=True)
    lab.energy("ft", train(20.0, 0, measured=False), attempt=1)
    assert ranking(lab.results()).collect()["energy_kind"].to_list() == ["measured"]


def test_an_attempt_after_the_one_that_counts_carries_nothing_into_it(lab):
    lab.finetune("ft", energy_j=90.0, attempt=1)
    lab.attempt("ft", "finished", 1, energy_j=90.0)
    lab.attempt("ft", "interrupted", 2, energy_j=50.0, energy_carried_j=30.0)
    now = status(lab.results())
    assert (now.useful_energy_j, now.lost_energy_j, now.checkpointed_energy_j) == (90.0, 50.0, 0.0)


@pytest.mark.parametrize(("state", "held_j"), [("interrupted", 40.0), ("failed", 0.0), ("oom", 0.0), ("diverged", 0.0)])
def test_what_a_checkpoint_holds_for_the_next_attempt_is_not_lost_yet(lab, state, held_j):
    lab.finetune("ft", run=False)
    lab.attempt("ft", state, 1, energy_j=70.0, energy_carried_j=40.0, energy_other_j=5.0, checkpoint_step=5)
    now = status(lab.results())
    assert (now.checkpointed_energy_j, now.lost_energy_j) == (held_j, 75.0 - held_j)
    assert (now.carried_energy_j, now.saved_energy_j) == (0.0, 0.0)
    assert ("40 J in checkpoints to go on from" in printed(lab)) == (held_j > 0)


def test_a_checkpoint_is_held_while_the_next_attempt_runs(lab):
    lab.finetune("ft", run=False)
    lab.attempt("ft", "interrupted", 1, energy_j=70.0, energy_carried_j=40.0)
    lab.ledger(tried("ft", 2, kind="finetune"), energy=[window(stage_id="ft", attempt=2, energy_j=9.0)])
    now = status(lab.results())
    assert (now.checkpointed_energy_j, now.lost_energy_j, now.running_energy_j) == (40.0, 30.0, 9.0)


def test_resuming_saved_finished_stages_and_carried_training(lab):
    lab.finetune("ft", energy_j=200.0, attempt=2, carried_attempts=1)
    lab.attempt("ft", "interrupted", 1, energy_j=70.0, energy_carried_j=40.0)
    lab.energy("ft", train(200.0, 0, run="r1"), attempt=2)
    lab.inference("a", precision="A", energy=30.0)
    lab.energy("a", {"run": "r1", "window": "decode"})
    lab.inference("b", precision="B")
    lab.energy("b", {"run": "r2", "window": "decode", "started_at": START.replace(hour=5)})
    now = status(lab.results())
    # of r1: 200 J of the fine-tuning, 40 of which had been carried into it, and 300 J of a; b is of the latest run
    assert (now.saved_energy_j, now.saved_stages) == (200.0 + 300.0, 2)
    assert (now.carried_energy_j, now.carried_attempts) == (40.0, 1)
    assert "resuming saved 500 J: 2 finished stages, and 40 J of training in 1 checkpoint\n" in printed(lab)


def test_resuming_saved_training_alone(lab):
    resumed(lab)
    assert "resuming saved 40 J: 40 J of training in 1 checkpoint\n" in printed(lab)


def test_one_run_saved_nothing(lab):
    lab.inference("a", needs=None)
    lab.energy("a", {"window": "decode"})
    assert (status(lab.results()).saved_energy_j, status(lab.results()).saved_stages) == (0.0, 0)
    assert "resuming" not in printed(lab)


def test_a_stage_that_was_dropped_was_not_saved(lab):
    lab.inference("a", needs=None)
    lab.energy("a", {"window": "decode", "run": "r0"})
    lab.inference("b", precision="B", needs=None)
    lab.energy("b", {"window": "decode", "started_at": START.replace(hour=5)})
    assert status(lab.results()).saved_stages == 1
    lab.plan = [row for row in lab.plan if row["stage_id"] == "b"]
    assert status(lab.results()).saved_stages == 0


def test_running_out_of_memory_is_a_dead_end_with_its_reason(lab):
    lab.finetune("ft", run=False)
    lab.attempt("ft", "oom", reason="OutOfMemory: 2 GiB asked for with micro-batch 1")
    lab.inference("a", run=False)
    now = status(lab.results())
    assert now.counts["finetune"]["oom"] == 1
    assert {row["stage_id"]: (row["state"], row["reason"]) for row in now.failed} == {
        "ft": ("oom", "OutOfMemory: 2 GiB asked for with micro-batch 1"),
        "a": ("blocked", "its finetune ft ran out of memory: OutOfMemory: 2 GiB asked for with micro-batch 1"),
    }
    assert now.left == 0
    states = {row["stage_id"]: row["state"] for row in left_out(lab.results()).collect().to_dicts()}
    assert states == {"a": "blocked"}


def test_windows_around_the_work_count_to_nothing_that_is_compared(lab):
    energy = [
        window(stage_id="ft", attempt=1, energy_j=7.0, window="train"),
        window(stage_id="ft", attempt=1, energy_j=2.0, window="checkpoint", marks=["short"]),
        window(stage_id="ft", attempt=1, energy_j=1.0, window="other"),
    ]
    lab.finetune("ft", run=False)
    lab.ledger(tried("ft", kind="finetune"), energy=energy, age_s=60.0)
    (row,) = lab.results().attempts.collect().to_dicts()
    assert (row["energy_j"], row["energy_other_j"], row["energy_measured_j"], row["marks"]) == (7.0, 3.0, 7.0, None)
    assert row["energy_carried_j"] is row["from_step"] is row["checkpoint_step"] is row["micro_batch_size"] is None


@dataclass
class Spent:
    """What an attempt of a random history spent, and how much of it a checkpoint holds."""

    energy_j: float
    other_j: float
    held_j: float


joules = st.integers(0, 1000).map(float)
attempts = st.builds(lambda held, rest, other: Spent(held + rest, other, held), joules, joules, joules)
histories = st.lists(
    st.tuples(
        st.lists(attempts, min_size=1, max_size=4),
        st.sampled_from(["finished", "interrupted", "failed", "oom", "running"]),
        st.sets(st.integers(0, 3)),
    ),
    min_size=1,
    max_size=4,
)


@given(histories)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_useful_lost_running_and_held_joules_are_those_of_all_attempts(histories):
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        expected_j = carried_j = 0.0
        for number, (spent, end, wanted) in enumerate(histories):
            name, last = f"s{number}", len(spent)
            # only a run of the latest earlier attempts can have been gone on from
            carried = [index for index in range(last - 1) if index in wanted] if end == "finished" else []
            for index, each in enumerate(spent):
                state = end if index == last - 1 else "interrupted"
                held_j = each.held_j if index < last - 1 or state == "interrupted" else None
                if end == "finished":
                    held_j = each.held_j if index in carried else None
                lab.attempt(
                    name, state, index + 1, energy_j=each.energy_j, energy_other_j=each.other_j, energy_carried_j=held_j
                )
                lab.energy(
                    name,
                    train(each.held_j, 0, kept=index in carried or state == "finished"),
                    train(each.energy_j - each.held_j, 1, kept=state == "finished"),
                    attempt=index + 1,
                )
                expected_j += each.energy_j + each.other_j
            into_j = sum(spent[index].held_j for index in carried)
            energy_j = spent[-1].energy_j + into_j
            lab.finetune(
                name, run=end == "finished", energy_j=energy_j, energy_other_j=spent[-1].other_j,
                attempt=last, carried_attempts=len(carried), seed=number,
            )  # fmt: skip
            carried_j += into_j
        now = status(lab.results())
        total_j = now.useful_energy_j + now.lost_energy_j + now.running_energy_j + now.checkpointed_energy_j
        assert total_j == pytest.approx(expected_j)
        around_j = sum(each.other_j for spent, _, _ in histories for each in spent)
        assert now.measured_energy_j == pytest.approx(expected_j - around_j)
        assert now.carried_energy_j == pytest.approx(carried_j)
        assert now.saved_energy_j <= now.useful_energy_j + 1e-6
        if all(end == "finished" for _, end, _ in histories):
            assert (now.running_energy_j, now.checkpointed_energy_j) == (0.0, 0.0)
