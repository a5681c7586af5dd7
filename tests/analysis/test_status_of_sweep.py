import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from analysis import status
from analysis.states import states
from analysis.status import STATES, as_json, as_table
from tests.analysis.builders import Lab, write


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """One fine-tuning finished, one diverged; inferences in every state; three attempts whose joules are lost."""
    lab = Lab(tmp_path / "results")
    lab.finetune("good", energy_j=100.0, attempt=2, duration_s=50.0)
    lab.attempt("good", "interrupted", attempt=1, energy_j=30.0, reason="Ctrl-C")
    lab.attempt("good", "finished", attempt=2, energy_j=100.0)
    lab.finetune("bad", run=False, precision="fp16")
    lab.attempt("bad", "diverged", energy_j=7.0, reason="loss is NaN")
    for name, duration_s in {"a": 10.0, "b": 20.0, "c": 60.0}.items():
        lab.inference(name, precision=name, needs="good", energy=1.0, duration_s=duration_s)
    lab.inference("unknown", precision="u", needs="good", energy=None, duration_s=20.0)
    lab.inference("blocked", needs="bad", run=False)
    for name in ("failed", "cut", "pending", "pending2", "infeasible"):
        lab.inference(name, precision=name, needs="good", run=False)
    lab.attempt("failed", "failed", energy_j=None, reason="no memory", duration_s=5.0)
    lab.attempt("cut", "interrupted", energy_j=3.0, duration_s=5.0)
    lab.infeasible("infeasible", "no CUDA")
    return lab


def printed(lab: Lab) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(as_table(status(lab.results())))
    return console.file.getvalue()


def test_stages_are_counted_by_kind_and_state(lab):
    none = dict.fromkeys(STATES, 0)
    assert status(lab.results()).counts == {
        "finetune": none | {"finished": 1, "diverged": 1},
        "inference": none | {"finished": 4, "failed": 1, "interrupted": 1, "blocked": 1, "infeasible": 1, "pending": 2},
    }


def test_joules_are_useful_lost_or_unknown(lab):
    write(
        lab.folder / "energy" / "idle.parquet",
        "energy",
        {"node": "n", "window": "idle", "component": "cpu", "energy_j": 9.0},
        {"node": "n", "window": "idle", "component": "gpu", "energy_j": None, "reason": "not readable"},
        {"node": "n", "window": "train", "component": "gpu", "energy_j": 50.0, "stage_id": "good"},
    )
    now = status(lab.results())
    assert now.useful_energy_j == 100.0 + 3 * 10.0
    assert now.lost_energy_j == 30.0 + 7.0 + 3.0
    assert now.idle_energy_j == 9.0
    assert now.unknown_energy_attempts == 2
    assert (now.unattributed_energy_j, now.running_energy_j) == (None, 0.0)
    assert now.energy == "measured"
    assert (now.measured_energy_j, now.estimated_energy_j) == (170.0, 0.0)
    # interrupted, diverged, failed and cut; the joules of the failed one are unknown
    assert (now.lost_attempts, now.lost_share) == (4, pytest.approx(40 / 170))
    # finished 50 + 10 + 20 + 60 + 20; lost: 10 (good, first) + 10 (bad) + 5 + 5
    assert now.duration_s == 190.0


def test_an_attempt_that_finished_without_its_stage_being_committed_is_lost(lab):
    lab.attempt("pending", "finished", energy_j=1000.0)
    now = status(lab.results())
    assert (now.useful_energy_j, now.lost_energy_j) == (130.0, 1040.0)
    assert now.counts["inference"]["pending"] == 2


@pytest.mark.parametrize(("also", "kind"), [(True, "measured"), (False, "mixed"), (None, "measured")])
def test_energy_is_measured_estimated_or_mixed(lab, also, kind):
    lab.inference("d", precision="d", needs="good", measured=also)
    assert status(lab.results()).energy == kind


def test_estimated_energy_is_called_so(tmp_path):
    lab = Lab(tmp_path)
    lab.inference("a", needs=None, measured=False)
    assert status(lab.results()).energy == "estimated"


def test_joules_are_measured_and_estimated_in_parts(lab):
    parts = {"energy_kind": "mixed", "energy_measured_j": 20.0, "energy_estimated_j": 5.0, "measured": False}
    lab.attempt("cut", "interrupted", attempt=2, energy_j=25.0, **parts)
    parts |= {"energy_measured_j": 1.0, "energy_estimated_j": None}
    lab.attempt("failed", "failed", attempt=2, energy_j=None, **parts)
    now = status(lab.results())
    assert (now.measured_energy_j, now.estimated_energy_j, now.energy) == (190.0, 5.0, "mixed")
    assert now.useful_energy_j + now.lost_energy_j == now.measured_energy_j + now.estimated_energy_j
    assert "of these in windows: 190 J measured, 5 J estimated" in printed(lab)


def test_joules_around_windows_are_spent_too_and_unknown_ones_make_the_sum_unknown(lab):
    lab.attempt("cut", "interrupted", attempt=2, energy_j=2.0, energy_other_j=5.0)
    lab.attempt("cut", "interrupted", attempt=3, energy_j=2.0, energy_other_j=None)
    lab.attempt("cut", "interrupted", attempt=4, energy_j=2.0, energy_other_j=None, schema_version=2)
    now = status(lab.results())
    assert (now.lost_energy_j, now.unknown_energy_attempts) == (40.0 + 7.0 + 2.0, 3)


def test_what_runs_is_neither_useful_nor_lost_nor_left(lab):
    lab.attempt("pending", "running", energy_j=12.0)
    lab.attempt("bad", "running", attempt=2, energy_j=1.0)
    now = status(lab.results())
    assert (now.running_energy_j, now.lost_energy_j, now.useful_energy_j) == (13.0, 40.0, 130.0)
    assert (now.counts["inference"]["running"], now.counts["finetune"]["running"], now.left) == (1, 1, 3)
    assert "bad" not in {row["stage_id"] for row in now.failed}
    waiting = states(lab.results()).filter(stage_id="blocked").select("state", "reason").collect().row(0)
    assert waiting == ("pending", "its finetune bad is running")
    assert "130 J useful, 40 J lost, 13 J running" in printed(lab)


def test_time_left_is_that_of_the_median_stage(lab):
    now = status(lab.results())
    # pending, pending2 and the interrupted one, at the median of 10, 20, 60, 20
    assert (now.left, now.time_left_s) == (3, 60.0)


def test_time_left_is_unknown_while_a_kind_has_none_finished(lab):
    lab.finetune("other", run=False)
    assert status(lab.results()).left == 4
    assert status(lab.results()).time_left_s == 3 * 20.0 + 50.0
    (lab.folder / "stages" / "finetune" / "good.parquet").unlink()
    assert status(lab.results()).time_left_s is None


def test_failures_are_listed_with_their_reasons(lab):
    failed = {row["stage_id"]: (row["state"], row["reason"]) for row in status(lab.results()).failed}
    assert failed == {
        "bad": ("diverged", "loss is NaN"),
        "failed": ("failed", "no memory"),
        "blocked": ("blocked", "its finetune bad diverged: loss is NaN"),
        "infeasible": ("infeasible", "no CUDA"),
    }


def test_nothing_run_yet(tmp_path):
    lab = Lab(tmp_path)
    lab.finetune(run=False)
    lab.inference("a", run=False)
    now = status(lab.results())
    assert (now.useful_energy_j, now.lost_energy_j, now.energy, now.duration_s) == (0.0, 0.0, None, 0.0)
    assert (now.left, now.time_left_s, now.failed) == (2, None, [])


def test_status_as_json_and_table(lab):
    (lab.folder / "epochs").mkdir()
    (lab.folder / "epochs" / "x.parquet").write_bytes(b"")
    now = status(lab.results())
    content = json.loads(as_json(now))
    assert content["counts"]["inference"]["pending"] == 2
    assert content["time_left_s"] == 60.0
    assert content["problems"] == ["epochs/x.parquet: empty (0 bytes); skipped"]
    text = printed(lab)
    for part in (
        "energy (measured): 130 J useful, 40 J lost",
        "lost: 40 J in 4 attempts (24 % of all stages' joules)",
        "attempts with unknown energy: 2",
        "time spent: 0:03:10",
        "left: 3 stages, about 0:01:00 one after another",
        "failed inference failed: no memory",
        "epochs/x.parquet: empty",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100
