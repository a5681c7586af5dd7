"""What is left of a sweep will take, told from what earlier stages took."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from analysis import load as load_results
from analysis.estimate import Effort, Estimates, estimates
from analysis.schema import schema
from cluster.inventory import local_cpus
from energyaware.precision import Hardware
from energyaware.store import Store
from sweep.estimate import at_once_here, earlier, forecast
from sweep.plan import configuration_columns, make_plan
from sweep.show_plan import as_json
from sweep.sweep_file import load
from tests.analysis.builders import START, window
from tests.end_to_end.command import energyaware

pytest_plugins = "tests.nvml.plugin"

SWEEP = """
precisions: [fp32, bf16]
prunings: [none, magnitude-50%]
finetune: {epochs: 2, batch_size: 8}
resources: {device: cpu}
energy: {carbon_g_per_kwh: 400, price_per_kwh: 0.3, pue: 1.5, currency: EUR}
"""


class Folder:
    """Results of a sweep of two fine-tunings, each with two inferences."""

    def __init__(self, path, text=SWEEP):
        self.path, self.count = path, 0
        self.store = Store(path / "results")
        self.store.create()
        self.asks(text)

    def asks(self, text):
        (self.path / "s.yaml").write_text(text)
        self.sweep = load(self.path / "s.yaml")
        self.plan = make_plan(self.sweep, Hardware("cpu", None))
        self.store.write_plan([stage.row() for stage in self.plan])
        return self

    def finish(self, stage, energy_j, other_j=0.0, duration_s=10.0, gpus=0, **more):
        self.count += 1
        row = {"stage_id": stage.stage_id, "kind": stage.spec.kind, "attempt": 1, "schema_version": 4}
        row |= {"energy_j": energy_j, "energy_other_j": other_j, "duration_s": duration_s}
        row |= {"finished_at": START + timedelta(minutes=self.count), "carried_attempts": 0} | more
        gpu = {"component": "gpu", "stage_id": stage.stage_id, "attempt": row["attempt"]}
        rows = [window(**gpu, device=f"GPU-{index}") for index in range(gpus)] or [window(**gpu | {"component": "cpu"})]
        self.store.write_rows("energy", f"{stage.stage_id}-{row['attempt']}", rows)
        self.attempt(stage, "finished", row["attempt"], **{k: v for k, v in row.items() if k in schema("attempts")})
        self.store.commit_stage(row | configuration_columns(stage.spec))

    def attempt(self, stage, state, number, **more):
        row = {"stage_id": stage.stage_id, "attempt": number, "state": state, "kind": stage.spec.kind}
        self.store.write_rows("attempts", f"{stage.stage_id}-{number}", [row | {"duration_s": 5.0} | more])

    def results(self):
        return load_results(self.store.root)

    def ahead(self, at_once=None):
        return forecast(self.sweep, self.plan.minus(self.store.finished()), self.results(), at_once)

    def of(self, stage):
        return estimates(self.results()).of(stage.row())


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_without_earlier_stages_it_is_unknown_and_says_so(folder):
    expected = ["estimate for 6 stages: unknown: no earlier stages"]
    assert folder.ahead(at_once=2).lines() == expected
    assert forecast(folder.sweep, tuple(folder.plan), earlier(str(folder.path / "none")), 2).lines() == expected
    ahead = folder.ahead()
    assert (ahead.unknown, ahead.wall_s, ahead.cost) == ({"finetune": 2, "inference": 4}, None, None)


def test_stages_of_other_precisions_and_prunings_tell_by_their_median(folder):
    tuned, dense, pruned, *_ = folder.plan
    folder.finish(tuned, 3.6e6, other_j=0.4e6, duration_s=600.0, gpus=2)
    folder.finish(dense, 100.0, duration_s=20.0)
    folder.finish(pruned, 200.0, duration_s=30.0)
    ahead = folder.ahead(at_once=2)
    assert ahead.effort == Effort(4.0e6 + 2 * 150.0, 1200.0, 600.0 + 2 * 25.0)
    assert (ahead.stages, ahead.unknown, ahead.rests_on, ahead.same_kind_only) == (3, {}, 3, 0)
    assert ahead.wall_s == 625.0, "an inference waits for its fine-tuning"
    assert ahead.cost == pytest.approx(4.0003e6 / 3.6e6 * 1.5 * 0.3)
    assert ahead.lines() == [
        "estimate for 3 stages, from 3 finished: 4,000,300 J = 1.11 kWh, 0.333 GPU-hours, 0:10:25 with 2 at once, "
        "0.5 EUR, 667 g CO2e"
    ]


def test_what_no_earlier_stage_tells_is_named_and_time_on_a_cluster_is_not_known(folder):
    tuned, *_ = folder.plan
    folder.finish(tuned, 3.6e6, duration_s=600.0)
    assert folder.ahead().lines() == [
        "estimate for 1 of 5 stages, from 1 finished: 3,600,000 J = 1 kWh, 0:10:00 one after another, 0.45 EUR, "
        "600 g CO2e; 4 inferences unknown: no earlier ones"
    ]


def test_the_same_precision_and_pruning_tell_more_than_others(folder):
    tuned, dense, pruned, *_ = folder.plan
    for stage, energy_j in ((tuned, 10.0), (dense, 100.0), (pruned, 200.0)):
        folder.finish(stage, energy_j)
    folder.asks(SWEEP + "seeds: [0, 1]")
    told = {
        (stage.spec.precision, stage.spec.pruning.label): folder.of(stage).effort.energy_j
        for stage in folder.plan
        if stage.spec.kind == "inference" and stage.spec.seed == 1
    }
    assert told == {
        ("fp32", "none"): 100.0, ("fp32", "magnitude-50%"): 200.0, ("bf16", "none"): 150.0,
        ("bf16", "magnitude-50%"): 150.0,
    }  # fmt: skip


def test_a_longer_fine_tuning_takes_more_but_for_its_loading(folder):
    tuned, *_ = folder.plan
    folder.finish(tuned, 90.0, other_j=10.0, duration_s=50.0)
    folder.asks(SWEEP.replace("epochs: 2", "epochs: 6"))
    estimate = folder.of(next(iter(folder.plan)))
    assert estimate.effort.energy_j == pytest.approx(3 * 90.0 + 10.0)
    assert estimate.effort.duration_s == pytest.approx(50.0 * 280 / 100)
    assert estimate.alike


def test_settings_that_change_the_work_are_told_by_kind_alone(folder):
    tuned, *_ = folder.plan
    folder.finish(tuned, 90.0)
    folder.asks(SWEEP.replace("epochs: 2", "epochs: 6, sequence_length: 64"))
    estimate = folder.of(next(iter(folder.plan)))
    assert (estimate.effort.energy_j, estimate.alike) == (90.0, False)
    assert (
        folder.ahead().lines()[0].startswith("estimate for 2 of 6 stages, from 1 finished, 2 of them by kind alone: ")
    )


def test_the_learning_rate_does_not_matter(folder):
    tuned, *_ = folder.plan
    folder.finish(tuned, 90.0)
    folder.asks(SWEEP.replace("epochs: 2", "epochs: 2, learning_rate: 1e-5"))
    assert folder.of(next(iter(folder.plan))).alike


def test_unknown_joules_stay_unknown_and_time_is_told_all_the_same(folder):
    tuned, *_ = folder.plan
    folder.finish(tuned, None, None, duration_s=60.0)
    estimate = folder.of(tuned)
    assert (estimate.effort.energy_j, estimate.effort.duration_s) == (None, 60.0)
    ahead = folder.ahead()
    assert (ahead.effort.energy_j, ahead.cost, ahead.carbon_g) == (None, None, None)
    assert ahead.lines() == [
        "estimate for 1 of 5 stages, from 1 finished: 0:01:00 one after another; 4 inferences unknown: no earlier ones"
    ]


def test_what_a_checkpoint_holds_is_not_spent_again(folder):
    tuned, _, _, other, *_ = folder.plan
    folder.finish(tuned, 100.0, duration_s=40.0)
    folder.attempt(other, "interrupted", 1, energy_j=80.0, energy_other_j=0.0, energy_carried_j=75.0)
    estimate = folder.of(other)
    assert (estimate.effort.energy_j, estimate.effort.duration_s) == (25.0, 10.0)


def test_a_stage_that_went_on_took_the_time_of_all_attempts_that_are_in_its_result(folder):
    tuned, *_ = folder.plan
    folder.attempt(tuned, "interrupted", 1, energy_j=80.0, energy_other_j=0.0, energy_carried_j=75.0, duration_s=30.0)
    folder.finish(tuned, 100.0, attempt=2, carried_attempts=1, duration_s=10.0)
    assert folder.of(tuned).effort.duration_s == 40.0


def test_only_the_last_stages_of_a_kind_count(folder):
    tuned, *_ = folder.plan
    learnt = Estimates()
    for number in range(1000):
        learnt.learn(tuned.row(), Effort(float(number), 0.0, 1.0), 0.0)
    estimate = learnt.of(tuned.row())
    assert (estimate.effort.energy_j, len(estimate.stages)) == (949.0, 101)


def test_json_has_the_estimate_of_every_stage_and_of_all(folder):
    tuned, *_ = folder.plan
    folder.finish(tuned, 90.0, other_j=10.0, duration_s=50.0, gpus=1)
    folder.asks(SWEEP.replace("currency: EUR}", "currency: EUR}\nbudget: {kwh: 1, cost: 2}"))
    content = json.loads(as_json(folder.sweep, folder.plan, folder.store.finished(), folder.ahead(at_once=3)))
    told = content["estimate"]
    assert told["unknown"] == {"inference": 4}
    assert told["effort"] == {"energy_j": 100.0, "gpu_s": 50.0, "duration_s": 50.0}
    assert (told["wall_s"], told["at_once"], told["rests_on"], told["currency"]) == (None, 3, 1, "EUR")
    assert [(cap["name"], cap["limit"]) for cap in told["budget"]] == [("kwh", 1.0), ("cost", 2.0)]
    assert told["budget"][0]["share"] == pytest.approx(100 / 3.6e6)
    of_stage = [stage["estimate"] for stage in content["stages"]]
    one = {"energy_j": 100.0, "gpu_s": 50.0, "duration_s": 50.0, "from_stages": 1, "by_kind_alone": False}
    assert of_stage == [None, None, None, one, None, None]


def test_the_command_tells_it_above_the_stages(folder):
    tuned, *_ = folder.plan
    folder.finish(tuned, 90.0, other_j=10.0, duration_s=50.0)
    (folder.path / "s.yaml").write_text(SWEEP + "budget: {kwh: 1, hours: 2}")
    told = energyaware("plan", "s.yaml", "--results", "results", cwd=folder.path).stdout
    assert "estimate for 1 of 5 stages, from 1 finished: 100 J = 2.78e-05 kWh, 0:00:50 one after another" in " ".join(
        told.split()
    )
    assert "budget used: 2.78e-05 of 1 kWh (0 %), 0 of 2 hours (0 %)" in told


FUNNEL = SWEEP + "strategy: {kind: funnel, keep: 1}\n"


def test_what_a_funnel_has_yet_to_choose_from_is_told_as_an_upper_bound(folder):
    folder.asks(FUNNEL)
    assert folder.ahead().lines() == ["estimate for at most 6 stages: unknown: no earlier stages"]
    tuned, *_ = folder.plan
    folder.finish(tuned, 90.0)
    assert folder.ahead().lines()[0].startswith("estimate for 1 of at most 5 stages, from 1 finished: ")
    pruned = tuple(stage for stage in folder.plan if stage.spec.pruning.kind != "none")
    assert not forecast(folder.sweep, pruned, folder.results(), None).at_most, "it has chosen"


@pytest.mark.parametrize(
    ("energy", "carbon_g"),
    [
        ("{country: DEU, pue: 1.5}", 400.0),
        ("{country: DEU}", None),
        ("{country: FRA, pue: 1.5}", None),
        ("{country: USA, region: california, pue: 1.5}", 200.0),
        ("{country: USA, region: texas, pue: 1.5}", None),
    ],
)
def test_an_emission_factor_is_taken_from_stages_of_the_same_place_alone(folder, energy, carbon_g):
    tuned, *_, other = [stage for stage in folder.plan if stage.spec.kind == "finetune"]
    folder.finish(tuned, 3.6e6, pue=1.5, carbon_g_per_kwh=400.0, carbon_source="codecarbon 3, private: DEU")
    folder.finish(other, 3.6e6, pue=1.5, carbon_g_per_kwh=200.0, carbon_source="codecarbon 3, private: USA, california")
    folder.asks(SWEEP.replace("{carbon_g_per_kwh: 400, price_per_kwh: 0.3, pue: 1.5, currency: EUR}", energy))
    assert forecast(folder.sweep, (tuned,), folder.results(), None).carbon_g == carbon_g


@pytest.mark.parametrize(
    ("resources", "at_once"),
    [
        ("{device: cpu, cpus_per_worker: 0.1, workers: 1}", 10 * local_cpus()),
        ("{device: cpu, cpus_per_worker: 0.1, workers: 1, exclusive: node}", 1),
        ("{device: cpu, cpus_per_worker: 0.7, workers: 1}", max(1, 10 * local_cpus() // 7)),
        ("{device: cpu, cpus_per_worker: 100000}", 1),
    ],
)
def test_as_many_stages_are_reckoned_beside_each_other_as_a_run_starts_here(tmp_path, resources, at_once):
    sweep = Folder(tmp_path, SWEEP.replace("{device: cpu}", resources)).sweep
    assert at_once_here(sweep, gpus_per_worker=0) == at_once


def at_once_with_gpus():
    return at_once_here(load(Path(os.environ["SWEEP_FILE"])), gpus_per_worker=1)


@pytest.mark.parametrize(("visible", "at_once"), [("0", 1), ("GPU-a,GPU-c", 2), ("0,1,2", 3), ("", 1)])
def test_stages_are_reckoned_on_the_gpus_that_ray_would_hand_out(gpus, tmp_path, visible, at_once):
    file = tmp_path / "s.yaml"
    file.write_text(SWEEP.replace("{device: cpu}", "{device: cuda, cpus_per_worker: 0.01}"))
    machine = [f"gpu GPU-{name} 100" for name in "abc"]
    here = {"CUDA_VISIBLE_DEVICES": visible, "SWEEP_FILE": str(file)}
    assert gpus.call(at_once_with_gpus, *machine, **here) == at_once
