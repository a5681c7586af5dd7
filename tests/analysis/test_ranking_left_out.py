"""What cannot be ranked is left out, with the reason."""

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from analysis import left_out
from tests.analysis.builders import GOOD, Lab
from tests.analysis.ranked import accuracy, ranked, reasons


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")


@pytest.mark.parametrize(
    ("quality", "reason"),
    [
        ({"root_cause": {"accuracy": 0.5}}, "root_cause.macro_f1 is missing"),
        ({"root_cause": {}}, "no quality of root_cause"),
        ({"root_cause": {"accuracy": None, "macro_f1": 0.5}}, "root_cause.accuracy is missing"),
        ({"root_cause": {"accuracy": math.nan, "macro_f1": 0.5}}, "root_cause.accuracy is NaN, not in [0, 1]"),
        ({"root_cause": {"accuracy": 1.5, "macro_f1": 0.5}}, "root_cause.accuracy is 1.5, not in [0, 1]"),
        ({"root_cause": {"accuracy": -0.5, "macro_f1": 0.5}}, "root_cause.accuracy is -0.5, not in [0, 1]"),
        ({}, "it names no task"),
    ],
)
def test_a_quality_that_is_missing_or_impossible_leaves_the_stage_out(lab, quality, reason):
    lab.inference("good", needs=None, precision="A", quality={"root_cause": {"accuracy": 0.5, "macro_f1": 0.5}})
    lab.inference("bad", needs=None, precision="B", quality=quality)
    assert [row["precision"] for row in ranked(lab)] == ["A"]
    assert reasons(lab) == {"bad": ("incomplete", reason)}


@pytest.mark.parametrize(
    ("energy", "reason"),
    [
        (None, "energy per request is unknown"),
        (math.nan, "energy per request is NaN J"),
        (math.inf, "energy per request is inf J"),
        (-3.0, "energy per request is -3.0 J"),
        (0.0, "energy per request is 0.0 J"),
    ],
)
def test_an_energy_that_is_unknown_or_impossible_leaves_the_stage_out(lab, energy, reason):
    lab.inference("good", needs=None, precision="A", energy=2.0)
    lab.inference("bad", needs=None, precision="B", energy=energy)
    assert [row["precision"] for row in ranked(lab)] == ["A"]
    assert reasons(lab) == {"bad": ("incomplete", reason)}


def test_an_unknown_energy_of_fine_tuning_leaves_out_all_that_start_from_it(lab):
    lab.finetune("ft", energy_j=None)
    lab.inference("a")
    lab.inference("b", precision="nf4")
    reason = "energy of fine-tuning is unknown (fine-tuning ft)"
    assert ranked(lab) == []
    assert reasons(lab) == {"a": ("incomplete", reason), "b": ("incomplete", reason)}


def test_fine_tuning_that_cannot_be_found_is_not_free(lab):
    lab.inference("a", precision="A", needs="gone")
    lab.inference("b", precision="B", needs=None, finetune_method="lora")
    write_without_needs(lab, "b")
    assert ranked(lab) == []
    assert [state for state, _ in reasons(lab).values()] == ["incomplete", "incomplete"]


def write_without_needs(lab: Lab, stage_id: str) -> None:
    """As an older schema would have it."""
    file = lab.folder / "stages" / "inference" / f"{stage_id}.parquet"
    pq.write_table(pq.read_table(file).drop_columns("needs"), file)


def test_a_seed_without_quality_is_left_out_and_the_others_are_ranked(lab):
    lab.inference("i0", seed=0, needs=None)
    lab.inference("i1", seed=1, needs=None, quality=accuracy(None))
    assert [row["seeds"] for row in ranked(lab)] == [[0]]
    assert reasons(lab) == {"i1": ("incomplete", "no quality of root_cause")}


def test_without_a_plan_all_that_is_finished_is_compared_and_what_failed_is_left_out(tmp_path):
    lab = Lab(tmp_path, planned=False)
    lab.inference("a", needs=None, precision="A")
    lab.inference("b", needs=None, precision="B", run=False)
    lab.attempt("b", "failed", reason="no memory")
    assert [row["precision"] for row in ranked(lab)] == ["A"]
    (left,) = left_out(lab.results()).collect().to_dicts()
    assert (left["precision"], left["seed"], left["state"], left["reason"]) == ("B", 0, "failed", "no memory")


def test_left_out_says_what_became_of_each_stage(lab):
    for name in ("fine", "broken", "cut", "waiting", "impossible"):
        lab.finetune(name, run=name == "fine")
        lab.inference(f"of-{name}", needs=name, run=False)
    for state in ("failed", "diverged", "interrupted"):
        lab.inference(state, needs="fine", run=False)
        lab.attempt(state, "failed" if state != "failed" else "interrupted", attempt=1, reason="first")
        lab.attempt(state, state, attempt=2, reason=f"it {state}")
    lab.attempt("broken", "diverged", reason="loss is NaN at step 2")
    lab.attempt("cut", "interrupted", reason="Ctrl-C")
    lab.inference("tried", needs="broken", run=False)
    lab.attempt("tried", "failed", reason="before its fine-tuning was run again")
    lab.attempt("of-fine", "finished")
    lab.infeasible("impossible", "fp16 on CPU")
    lab.inference("no", needs="fine", run=False)
    lab.infeasible("no", "no CUDA")
    assert reasons(lab) == {
        "failed": ("failed", "it failed"),
        "diverged": ("diverged", "it diverged"),
        "interrupted": ("interrupted", "it interrupted"),
        "tried": ("failed", "before its fine-tuning was run again"),
        "of-broken": ("blocked", "its finetune broken diverged: loss is NaN at step 2"),
        "of-cut": ("pending", "its finetune cut was interrupted: Ctrl-C"),
        "of-waiting": ("pending", "its finetune waiting has not run yet"),
        "of-impossible": ("infeasible", "its finetune impossible is infeasible: fp16 on CPU"),
        "of-fine": ("pending", "attempt 1 ended but its row was not written: it will run again"),
        "no": ("infeasible", "no CUDA"),
    }


def test_a_finished_stage_is_ranked_even_where_the_plan_calls_it_infeasible_here(lab):
    lab.inference("a", needs=None, quality=GOOD)
    lab.infeasible("a", "no CUDA on this machine")
    assert [row["stage_ids"] for row in ranked(lab)] == [["a"]]
    assert reasons(lab) == {}
