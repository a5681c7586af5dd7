"""Which stages a funnel holds back, and which of them it runs in the end."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from analysis import load, status
from analysis.schema import schema
from energyaware.errors import InputError
from energyaware.precision import Hardware
from energyaware.store import Store
from sweep.funnel import held_back, left_of_rounds
from sweep.left import Wish
from sweep.plan import make_plan
from sweep.session import _Session
from sweep.sweep_file import load as load_sweep
from sweep.tries import Tries
from tests.analysis.builders import START, write

SWEEP = """
precisions: [fp32, bf16, int8, nf4]
prunings: [none, magnitude-50%, {kind: heads, sparsity: 0.5, applied: before}]
strategy: {kind: funnel, keep: 2}
ranking: {weight: 0.5, requests: 1000, phi: ratio}
"""

JOULES = {"fp32": 4.0, "bf16": 2.0, "int8": 3.0, "nf4": 5.0}
"""Per request, without pruning; quality is the same, so that these are in the order bf16, int8, fp32, nf4."""


class Sweeping:
    """A sweep whose stages finish when they are told to."""

    def __init__(self, folder, text):
        (folder / "s.yaml").write_text(text)
        self.sweep, self.folder = load_sweep(folder / "s.yaml"), folder / "results"
        self.grid = make_plan(self.sweep, Hardware("cpu", None))
        write(self.folder / "plan.parquet", "plan", *(stage.row() for stage in self.grid))

    def stages(self, kind, pruned):
        return [s for s in self.grid if s.spec.kind == kind and (s.spec.pruning.kind != "none") == pruned]

    def finish(self, *stages, **more):
        for stage in stages:
            joules = JOULES[stage.spec.precision]
            row = stage.row() | {"state": "finished", "attempt": 1, "energy_j": 10 * joules, "measured": True}
            row |= {"energy_kind": "measured", "duration_s": 5.0, "started_at": START, "realisation": "none"}
            row |= {"energy_other_j": 0.0, "device": "cpu", "finished_at": START}
            if stage.spec.kind == "inference":
                row["energy_j_per_request"] = joules
                quality = {"stage_id": stage.stage_id, "attempt": 1, "metric": "accuracy", "value": 0.5, "examples": 9}
                tasks = [quality | {"task": task} for task in stage.spec.tasks]
                write(self.folder / "quality" / f"{stage.stage_id}.parquet", "quality", *tasks)
            row = {name: value for name, value in (row | more).items() if name in schema("stages")}
            write(self.folder / "stages" / f"{stage.stage_id}.parquet", "stages", row)

    def fail(self, *stages):
        for stage in stages:
            row = {"stage_id": stage.stage_id, "attempt": 1, "kind": stage.spec.kind, "state": "failed", "reason": "x"}
            write(self.folder / "attempts" / f"{stage.stage_id}.parquet", "attempts", row)

    def left(self):
        return left_of_rounds(self.sweep, self.grid, load(self.folder), {}, Wish())


@pytest.fixture
def sweeping(tmp_path):
    return Sweeping(tmp_path, SWEEP)


def precisions(stages):
    return {stage.spec.precision for stage in stages}


def test_prunings_are_held_back_until_all_precisions_are_measured_without(sweeping):
    held = held_back(sweeping.sweep.strategy, sweeping.grid)
    assert held == {s.stage_id for kind in ("finetune", "inference") for s in sweeping.stages(kind, pruned=True)}
    sweeping.finish(*sweeping.stages("finetune", pruned=False), *sweeping.stages("inference", pruned=False)[:3])
    plan, left, still_held = sweeping.left()
    assert plan is sweeping.grid
    assert still_held == held
    assert len(left.stages) == 1 + len(held)


def test_prunings_of_the_best_precisions_are_run_and_those_of_others_skipped_with_the_reason(sweeping):
    sweeping.finish(*sweeping.stages("finetune", pruned=False), *sweeping.stages("inference", pruned=False))
    plan, left, held = sweeping.left()
    assert held == frozenset()
    assert precisions(left.stages) == {"bf16", "int8"}
    assert {stage.spec.kind for stage in left.stages} == {"finetune", "inference"}
    skipped = [stage for stage in plan if stage.state == "skipped"]
    assert precisions(skipped) == {"fp32", "nf4"}
    assert {(s.spec.precision, s.reason) for s in skipped} == {
        ("fp32", "funnel: without pruning it is number 3 of 4, and the best 2 go on"),
        ("nf4", "funnel: without pruning it is number 4 of 4, and the best 2 go on"),
    }
    assert len(skipped) == 2 * (1 + 2), "of each a fine-tuning of the pruned, and two inferences"


def test_what_a_pruning_shares_with_others_is_chosen_the_same_after_some_prunings_ran(sweeping):
    """Else what min-max makes of a pruned configuration would change the choice in the middle."""
    sweeping.finish(*sweeping.stages("finetune", pruned=False), *sweeping.stages("inference", pruned=False))
    first, _, _ = sweeping.left()
    chosen = [s for s in sweeping.stages("inference", pruned=True) if s.spec.precision == "int8"]
    sweeping.finish(*chosen, energy_j_per_request=0.001)
    again, left, _ = sweeping.left()
    assert [(s.stage_id, s.state) for s in again] == [(s.stage_id, s.state) for s in first]
    assert precisions(left.stages) == {"bf16"}


def test_precisions_that_tie_with_the_last_one_kept_are_kept(sweeping):
    sweeping.finish(*sweeping.stages("finetune", pruned=False), energy_j=10.0)
    sweeping.finish(*sweeping.stages("inference", pruned=False))
    tied = [s for s in sweeping.stages("inference", pruned=False) if s.spec.precision in {"int8", "fp32"}]
    sweeping.finish(*tied, energy_j_per_request=3.0)
    _, left, _ = sweeping.left()
    assert precisions(left.stages) == {"bf16", "int8", "fp32"}


def test_a_precision_that_failed_without_pruning_is_not_pruned(sweeping):
    dense = sweeping.stages("inference", pruned=False)
    sweeping.finish(*sweeping.stages("finetune", pruned=False), *dense[2:])
    sweeping.fail(*dense[:2])
    plan, left, _ = sweeping.left()
    assert precisions(left.stages) == {"int8", "nf4"}
    assert {s.reason for s in plan if s.state == "skipped"} == {"funnel: without pruning it has no rank"}


def test_what_is_finished_is_never_skipped(sweeping):
    sweeping.finish(*sweeping.stages("finetune", pruned=False), *sweeping.stages("inference", pruned=False))
    there = [s for s in sweeping.grid if s.spec.precision == "nf4"]
    sweeping.finish(*there)
    plan, _, _ = sweeping.left()
    assert precisions(s for s in plan if s.state == "skipped") == {"fp32"}


def test_energies_that_cannot_be_compared_choose_nothing(sweeping):
    sweeping.finish(*sweeping.stages("finetune", pruned=False), *sweeping.stages("inference", pruned=False))
    sweeping.finish(sweeping.stages("inference", pruned=False)[0], measured=False, energy_kind="estimated")
    with pytest.raises(InputError, match="not like with like"):
        sweeping.left()


def test_where_no_energy_is_known_nothing_is_chosen_and_nothing_skipped(sweeping):
    dense = sweeping.stages("inference", pruned=False)
    sweeping.finish(*sweeping.stages("finetune", pruned=False))
    sweeping.finish(*dense[1:], energy_j_per_request=None)
    sweeping.fail(dense[0])
    with pytest.raises(InputError, match=r"nothing without pruning can be ranked: .*energy per request is unknown"):
        sweeping.left()
    setting = SimpleNamespace(
        sweep=sweeping.sweep, plan=sweeping.grid, store=Store(sweeping.folder), address="local", held=frozenset()
    )
    session = _Session(setting, Console(quiet=True), SimpleNamespace(stop=list))
    session._held = held = [Tries(stage, 1) for stage in sweeping.stages("inference", pruned=True)]
    assert session._next_round() == ()
    assert session._held == held, "they are left to a later run"
    assert session._stopped_by.startswith("the funnel cannot choose: ")
    assert status(load(sweeping.folder)).skipped_stages == 0


def test_where_no_energy_is_known_a_sweep_that_is_through_is_left_alone(sweeping):
    sweeping.finish(*(s for s in sweeping.grid if s.spec.kind == "finetune"))
    sweeping.finish(*(s for s in sweeping.grid if s.spec.kind == "inference"), energy_j_per_request=None)
    _, left, _ = sweeping.left()
    assert left.stages == ()


def test_a_funnel_without_dense_configurations_is_refused(tmp_path):
    (tmp_path / "s.yaml").write_text("precisions: fp32\nprunings: magnitude-50%\nstrategy: funnel")
    with pytest.raises(InputError, match="add none to prunings"):
        load_sweep(tmp_path / "s.yaml")


def test_the_short_form_names_the_strategy(tmp_path):
    (tmp_path / "s.yaml").write_text("precisions: fp32\nstrategy: funnel")
    assert load_sweep(tmp_path / "s.yaml").strategy.keep == 2


def test_a_grid_runs_what_a_funnel_skipped(sweeping):
    sweeping.finish(*sweeping.stages("finetune", pruned=False), *sweeping.stages("inference", pruned=False))
    grid = sweeping.sweep.strategy.model_copy(update={"kind": "grid"})
    sweeping.sweep = sweeping.sweep.model_copy(update={"strategy": grid})
    plan, left, held = sweeping.left()
    assert plan is sweeping.grid
    assert held == frozenset()
    assert len(left.stages) == 4 * (1 + 2)


def test_the_status_says_what_was_saved(sweeping):
    sweeping.finish(*sweeping.stages("finetune", pruned=False), *sweeping.stages("inference", pruned=False))
    plan, _, _ = sweeping.left()
    write(sweeping.folder / "plan.parquet", "plan", *(stage.row() for stage in plan))
    now = status(load(sweeping.folder))
    assert now.skipped_stages == 6
    assert now.skipped_energy_j == pytest.approx(6 * 10 * 3.5), "each as much as the median of those of its kind"
    assert now.failed == []
    assert {name: now.counts["inference"][name] for name in ("finished", "skipped", "pending")} == {
        "finished": 4, "skipped": 4, "pending": 4,
    }  # fmt: skip
