"""What is left of a sweep, from what is in its results."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from analysis import load as load_results
from energyaware.precision import Hardware
from energyaware.store import Store
from energyaware.versions import versions
from sweep.left import Wish, differences, idle_rows, left_of
from sweep.plan import configuration_columns, make_plan
from sweep.sweep_file import load
from tests.analysis.builders import START

NOW_AT = datetime.now(UTC)
NOW = {"python": "3.11.7", "torch": "2.13.0", "code": "abc"}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


class Folder:
    """Results of a sweep of one fine-tuning and two inferences."""

    def __init__(self, path):
        (path / "s.yaml").write_text("precisions: [fp32]\nprunings: [none, magnitude-50%]")
        self.plan = make_plan(load(path / "s.yaml"), Hardware("cpu", None))
        self.finetune, self.dense, self.pruned = self.plan
        self.store = Store(path / "results")
        self.store.create()
        self.store.write_plan([stage.row() for stage in self.plan])

    def attempt(self, stage, state, number=1, **more):
        row = {"stage_id": stage.stage_id, "attempt": number, "state": state, "reason": "why", "started_at": START}
        self.store.write_rows("attempts", f"{stage.stage_id}-{number}", [row | more])

    def finish(self, stage, then=NOW, number=1, started_at=None):
        self.attempt(stage, "finished", number)
        row = {"stage_id": stage.stage_id, "kind": stage.spec.kind, "attempt": number, "versions": json.dumps(then)}
        row |= {"started_at": started_at} | configuration_columns(stage.spec)
        self.store.commit_stage(row, replace=number > 1)

    def left(self, **wish):
        return left_of(self.plan, load_results(self.store.root), NOW, Wish(**wish))

    def ids(self, **wish):
        return [tries.stage.stage_id for tries in self.left(**wish).tries]


def test_all_is_left_at_first_and_nothing_when_all_is_finished(folder):
    assert folder.ids() == [stage.stage_id for stage in folder.plan]
    for stage in folder.plan:
        folder.finish(stage)
    left = folder.left()
    assert (left.tries, left.again, left.failed, left.changed) == ((), frozenset(), (), ())


def test_what_was_interrupted_goes_on_under_the_next_number_with_the_micro_batch_it_had(folder):
    folder.attempt(folder.finetune, "oom", 1, micro_batch_size=8)
    folder.attempt(folder.finetune, "interrupted", 2, micro_batch_size=4)
    first, *_ = folder.left().tries
    assert (first.stage.stage_id, first.attempt, first.micro_batch_size) == (folder.finetune.stage_id, 3, 4)


@pytest.mark.parametrize("state", ["failed", "diverged", "oom"])
def test_what_failed_is_left_alone_with_all_that_needs_it_until_it_is_to_be_tried_again(folder, state):
    folder.attempt(folder.finetune, state, micro_batch_size=8)
    left = folder.left()
    assert left.tries == ()
    assert [(row["stage_id"], row["state"], row["reason"]) for row in left.failed] == [
        (folder.finetune.stage_id, state, "why")
    ]
    again = folder.left(retry_failed=True)
    assert len(again.tries) == 3
    assert (again.tries[0].attempt, again.tries[0].micro_batch_size) == (2, None)


def test_an_inference_that_failed_keeps_no_other_from_running(folder):
    folder.finish(folder.finetune)
    folder.attempt(folder.dense, "failed")
    assert folder.ids() == [folder.pruned.stage_id]
    assert folder.ids(retry_failed=True) == [folder.dense.stage_id, folder.pruned.stage_id]


def test_other_versions_are_told_and_measured_again_only_where_asked(folder):
    folder.finish(folder.finetune)
    folder.finish(folder.dense, NOW | {"torch": "2.12.1"})
    folder.finish(folder.pruned)
    left = folder.left()
    assert left.tries == ()
    assert left.changed == ("1 finished stage: torch 2.12.1, now 2.13.0",)
    again = folder.left(rerun_changed=True)
    assert [(tries.stage.stage_id, tries.attempt) for tries in again.tries] == [(folder.dense.stage_id, 2)]
    assert again.again == {folder.dense.stage_id}
    assert again.changed == ()


def test_what_was_measured_on_a_fine_tuning_that_is_made_again_is_measured_again(folder):
    folder.finish(folder.finetune, NOW | {"code": "old"})
    folder.finish(folder.dense)
    assert folder.ids(rerun_changed=True) == [stage.stage_id for stage in folder.plan]


def test_what_was_measured_on_a_fine_tuning_that_is_no_more_is_told_and_measured_again(folder):
    def at(hour):
        return START + timedelta(hours=hour)

    folder.finish(folder.finetune, NOW | {"torch": "2.12.1"}, started_at=at(0))
    folder.finish(folder.dense, NOW | {"torch": "2.12.1"}, started_at=at(1))
    folder.finish(folder.pruned, started_at=at(2))
    assert folder.left().changed == ("2 finished stages: torch 2.12.1, now 2.13.0",)

    folder.finish(folder.finetune, number=2, started_at=at(3))  # and the run was stopped before the inferences
    assert folder.left().changed == (
        "1 finished stage: torch 2.12.1, now 2.13.0",
        "2 finished stages: fine-tuned anew since",
    )
    assert folder.ids(rerun_changed=True) == [folder.dense.stage_id, folder.pruned.stage_id]

    folder.finish(folder.dense, number=2, started_at=at(4))
    assert folder.ids(rerun_changed=True) == [folder.pruned.stage_id]
    folder.finish(folder.pruned, number=2, started_at=at(5))
    assert folder.ids(rerun_changed=True) == []
    assert folder.left().changed == ()


def test_a_stage_of_which_no_start_is_known_is_taken_to_be_measured_on_the_fine_tuning_that_is_there(folder):
    folder.finish(folder.finetune, started_at=START)
    folder.finish(folder.dense)
    folder.finish(folder.pruned, started_at=START + timedelta(hours=1))
    assert folder.left().changed == ()


def test_versions_that_only_one_side_knows_are_no_difference():
    assert differences(json.dumps({"torch": "2.13.0", "cuda": "13"}), NOW) == ()
    assert differences(None, NOW) == ()
    assert {"python", "code", "torch", "ray"} <= versions().keys()


def test_idle_power_of_the_last_day_is_good_enough_and_the_latest_counts(folder):
    def told(run, age, power_w, node="n"):
        row = {"run": run, "node": node, "component": "cpu", "source": "rapl", "started_at": NOW_AT - age}
        folder.store.write_rows("nodes", run, [row | {"idle_power_w": power_w}])

    told("old", timedelta(days=3), 50.0, "m")
    told("first", timedelta(hours=5), 51.0)
    told("second", timedelta(hours=4), 52.0)
    told("unread", timedelta(hours=1), None)
    rows = idle_rows(load_results(folder.store.root))
    assert [(row["node"], row["idle_power_w"]) for row in rows] == [("n", 52.0)]


def test_what_others_were_ahead_of_is_left_alone_while_such_are_stopped(folder):
    folder.attempt(folder.finetune, "stopped")
    results = load_results(folder.store.root)
    left = left_of(folder.plan, results, NOW, Wish(retry_failed=True), halving=True)
    assert (left.tries, left.failed) == ((), ()), "it is no failure"
    assert [tries.attempt for tries in left_of(folder.plan, results, NOW, Wish()).tries] == [2, 1, 1]
