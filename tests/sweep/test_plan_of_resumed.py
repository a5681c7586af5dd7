"""What `plan` and a resumed run say of stages that earlier runs have ended with or without a result."""

import json
from types import SimpleNamespace

import pytest

from analysis import load
from energyaware.store import Store
from sweep.left import Left, Wish, left_of
from sweep.session import _done
from sweep.show_plan import as_text, not_run
from tests.analysis.builders import write
from tests.end_to_end.command import energyaware
from tests.sweep.test_funnel import Sweeping

SWEEP = "precisions: [fp32, bf16, int8]\nprunings: [none, magnitude-50%]\n"


@pytest.fixture
def sweeping(tmp_path):
    """One fine-tuning has finished with one inference, one has failed, one is left."""
    sweeping = Sweeping(tmp_path, SWEEP)
    first, dense, _, failed, *_ = sweeping.grid
    sweeping.finish(first, dense)
    sweeping.fail(failed)
    return sweeping


def test_a_plan_forecasts_what_a_run_runs_and_names_the_others_as_the_status_does(sweeping, tmp_path):
    told = json.loads(energyaware("plan", "s.yaml", "--results", "results", "--format", "json", cwd=tmp_path).stdout)
    states = [stage["state"] for stage in told["stages"]]
    assert states == ["finished", "finished", "planned", "failed", "blocked", "blocked", *["planned"] * 3]
    assert told["stages"][4]["reason"] == f"its finetune {told['stages'][3]['id']} failed: x"
    assert told["estimate"]["stages"] == len(sweeping.left()[1].stages) == 4
    text = energyaware("plan", "s.yaml", "--results", "results", cwd=tmp_path).stdout
    assert "2 done, 2 blocked, 1 failed" in " ".join(text.split())


def test_a_stopped_fine_tuning_is_shown_as_planned_only_where_a_run_goes_on_with_it(sweeping):
    tuned = list(sweeping.grid)[6]
    row = {"stage_id": tuned.stage_id, "attempt": 1, "kind": "finetune", "state": "stopped", "reason": "behind"}
    write(sweeping.folder / "attempts" / f"{tuned.stage_id}.parquet", "attempts", row)
    results = load(sweeping.folder)

    def ended(*, halving):
        left = left_of(sweeping.grid, results, {}, Wish(retry_failed=True), halving=halving)
        return not_run(sweeping.grid, left, results)

    assert ended(halving=False) == {}
    assert [state for state, _ in ended(halving=True).values()] == ["stopped"] * 3
    shown = as_text(sweeping.sweep, sweeping.grid, (), None, ended(halving=True)).splitlines()
    assert shown[-3].endswith("stopped: behind")


def test_done_is_what_has_a_result_that_is_not_measured_again(sweeping):
    first, *_ = sweeping.grid

    def done(*again):
        left = Left((), frozenset(again), (), ())
        return _done(SimpleNamespace(plan=sweeping.grid, store=Store(sweeping.folder), left=left))

    assert done() == 2
    assert done(first.stage_id) == 1
