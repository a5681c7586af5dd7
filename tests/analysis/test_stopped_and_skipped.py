"""Stages that were not run to their end on purpose are no failures."""

import pytest

from analysis import left_out, status
from analysis.states import states
from tests.analysis.builders import Lab


@pytest.fixture
def lab(tmp_path):
    """One fine-tuning that others were ahead of, and what a funnel did not choose."""
    lab = Lab(tmp_path / "results")
    lab.finetune("ft")
    lab.inference("dense", precision="bf16")
    lab.finetune("behind", run=False, precision="nf4")
    lab.inference("of-behind", precision="nf4", needs="behind", run=False)
    lab.attempt("behind", "stopped", reason="after epoch 1 its score is number 2 of 2")
    lab.inference("pruned", precision="bf16", pruning="magnitude-50%", run=False)
    lab.plan[-1] |= {"state": "skipped", "reason": "funnel: number 3 of 4"}
    return lab


def test_they_have_states_of_their_own(lab):
    found = {row["stage_id"]: (row["state"], row["reason"]) for row in states(lab.results()).collect().to_dicts()}
    assert found["behind"] == ("stopped", "after epoch 1 its score is number 2 of 2")
    assert found["of-behind"][0] == "stopped"
    assert found["of-behind"][1].startswith("its finetune behind stopped: after epoch 1")
    assert found["pruned"] == ("skipped", "funnel: number 3 of 4")


def test_they_are_neither_failed_nor_left(lab):
    now = status(lab.results())
    assert now.failed == []
    assert now.left == 0
    assert now.lost_attempts == 1, "what was spent on it became no result"
    assert now.counts["inference"]["stopped"] == 1
    assert (now.skipped_stages, now.skipped_energy_j) == (1, pytest.approx(10.0))


def test_the_ranking_says_why_they_are_not_in_it(lab):
    assert set(left_out(lab.results()).collect()["state"]) == {"stopped", "skipped"}
