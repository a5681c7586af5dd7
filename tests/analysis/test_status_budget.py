"""What is used of a budget, and why nothing more starts."""

import io
import json
from datetime import timedelta

import pytest
from rich.console import Console

from analysis import load, status
from analysis.budget import spending
from analysis.status import as_json, as_table, stopped_by_budget
from analysis.watch import watch
from tests.analysis.builders import START, Lab, node_row, tried, window

KWH, HOUR = 3.6e6, 3600.0


@pytest.fixture
def lab(tmp_path):
    """A fine-tuning and one inference finished, two inferences left; one attempt was lost."""
    lab = Lab(tmp_path / "results")
    lab.finetune("ft", energy_j=0.4 * KWH, duration_s=1000.0)
    lab.inference("a", precision="a", duration_s=100.0, energy=0.01 * KWH)
    for name in ("b", "c"):
        lab.inference(name, precision=name, run=False)
    lab.attempt("b", "interrupted", energy_j=0.3 * KWH, duration_s=500.0)
    return lab


def with_budget(lab, **budget):
    energy = {"price_per_kwh": 0.5, "pue": 2.0, "currency": "EUR"}
    lab.folder.mkdir(exist_ok=True)
    (lab.folder / "sweep.yaml").write_text(f"# {{}}\n{json.dumps({'budget': budget, 'energy': energy})}")
    return lab


def printed(lab):
    console = Console(width=120, file=io.StringIO())
    console.print(as_table(status(lab.results())), soft_wrap=True)
    return console.file.getvalue()


def test_what_was_spent_is_spent_whatever_became_of_it(lab):
    now = status(with_budget(lab, kwh=2, cost=1).results())
    assert [(cap.name, cap.unit, cap.limit) for cap in now.budget] == [("kwh", "kWh", 2.0), ("cost", "EUR", 1.0)]
    assert [cap.used for cap in now.budget] == pytest.approx([0.8, 0.8])
    assert now.stopped_by_budget is None
    assert "budget used: 0.8 of 2 kWh (40 %), 0.8 of 1 EUR (80 %)\n" in printed(lab)
    content = json.loads(as_json(now))
    assert content["budget"][0] == {
        "name": "kwh", "unit": "kWh", "limit": 2.0, "used": pytest.approx(0.8), "share": pytest.approx(0.4),
    }  # fmt: skip


def test_nothing_is_said_of_a_budget_that_was_not_given(lab):
    assert status(lab.results()).budget == []
    (lab.folder / "sweep.yaml").write_text("precisions: fp32")
    assert status(lab.results()).budget == []
    assert "budget" not in printed(lab)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "budget: 5", "budget: {kwh: much}", "budget: {kwh: [1]}", "budget: {kwh: 0}", "budget: {kwh: -1}"),
        *("budget: {kwh: .nan}", "budget: {kwh: .inf}", "budget: {kwh: 1}\nenergy: {pue: high}", "energy: DEU"),
        *("budget: {cost: 1}\nenergy: {price_per_kwh: [1]}", "seeds: !!int abc", "name: 2026-02-30", "[" * 600),
    ],
)
def test_a_sweep_file_that_cannot_be_read_is_named(lab, text):
    lab.results()
    (lab.folder / "sweep.yaml").write_text(text)
    now = status(lab.results())
    assert now.problems == ["sweep.yaml: cannot be read; its budget is not known"]


def test_what_no_stage_left_can_start_within_is_told_with_what_it_needs(lab):
    told = "stopped by the budget: 0.8 of 0.85 kWh used, 2 stages left, ~0.2 kWh needed"
    with_budget(lab, kwh=0.85)
    assert status(lab.results()).stopped_by_budget == told
    assert f"{told}; a run with a larger budget goes on from here\n" in printed(lab)
    assert stopped_by_budget(lab.results()) == told
    assert status(with_budget(lab, kwh=0.95).results()).stopped_by_budget is None


def test_a_run_that_is_at_work_is_not_stopped(lab):
    with_budget(lab, kwh=0.1)
    lab.lease()
    assert status(lab.results()).stopped_by_budget is None
    lab.lease(released=True)
    assert status(lab.results()).stopped_by_budget.startswith("stopped by the budget: 0.8 of 0.1 kWh used")


def test_what_waits_for_a_fine_tuning_that_cannot_start_cannot_start_either(lab):
    lab.finetune("ft2", precision="fp32", run=False)
    lab.inference("d", needs="ft2", precision="d", run=False)
    now = status(with_budget(lab, kwh=0.95).results())
    assert now.stopped_by_budget is None, "an inference can"
    for name in ("b", "c"):
        lab.inference(name, precision=name, attempt=2, duration_s=1.0, energy=0.0)
    assert status(lab.results()).stopped_by_budget.endswith(" kWh used, 2 stages left, ~0.4 kWh needed")


def test_nothing_is_left_to_be_stopped_when_all_is_done(tmp_path):
    lab = with_budget(Lab(tmp_path), kwh=0.1)
    lab.finetune("ft", energy_j=KWH)
    lab.inference("a")
    now = status(lab.results())
    assert (now.stopped_by_budget, now.budget[0].share > 10) == (None, True)
    again = "stopped by the budget: what was to be measured again has its earlier result"
    assert stopped_by_budget(lab.results()) == again


def test_gpu_hours_are_those_of_all_attempts_also_of_one_at_work(lab):
    def gpus(*names, node="n1"):
        return [{"component": "gpu", "device": name, "node": node} for name in names]

    lab.energy("ft", *gpus("GPU-1", "GPU-2"), *gpus("GPU-1", "GPU-2"), {"component": "cpu"})
    lab.energy("b", *gpus("GPU-1"), *gpus("GPU-1", node="n2"), {"component": "gpu", "device": None})
    lab.energy("a", {"component": "cpu"})
    lab.ledger(
        tried("c", started_at=START, workers=1),
        energy=[window(stage_id="c", attempt=1, **gpu) for gpu in gpus("GPU-7")],
        written_at=START + timedelta(seconds=60),
    )
    spent = spending(lab.results())
    assert spent.gpu_s == 2 * 1000.0 + 2 * 500.0 + 60.0


def test_attempts_without_a_row_of_energy_are_taken_to_have_held_a_gpu_per_worker(tmp_path):
    lab = Lab(tmp_path)
    lab.inference("a", needs=None, run=False)
    lab.attempt("a", "interrupted", energy_j=None, energy_other_j=None, duration_s=30.0, workers=4)
    assert spending(lab.results()).gpu_s == 120.0


def test_hours_are_the_wall_time_of_every_run_once_whatever_runs_beside_each_other(lab):
    for run, node, after_s, duration_s in (
        *(("r1", "n1", 0, 1000.0), ("r1", "n2", 500, 1300.0), ("r2", "n1", 90_000, 1800.0)),
    ):
        more = {"run": run, "started_at": START + timedelta(seconds=after_s), "duration_s": duration_s}
        lab.node(node, "cpu", 1.0, 1.0, 0.0, 0.0, **more)
        lab.node(node, "gpu", 1.0, 1.0, 0.0, 0.0, **more)
    live = node_row("n1", "cpu", 1.0, 1.0, 0.0, 0.0, run="r3", started_at=START + timedelta(days=9), duration_s=60.0)
    lab.ledger(nodes=[live | {"started_at": live["started_at"]}], run="r3")
    now = status(with_budget(lab, hours=2).results())
    assert now.budget[0].used == pytest.approx((1800 + 1800 + 60) / HOUR)


def test_joules_that_are_not_known_count_with_the_power_of_the_others(lab):
    before = spending(lab.results()).effort.energy_j
    lab.attempt("c", "interrupted", energy_j=None, duration_s=160.0)
    now = spending(lab.results())
    assert (now.known_s, now.unknown_s) == (1600.0, 160.0)
    assert now.effort.energy_j == pytest.approx(1.1 * before)


def test_joules_that_no_meter_tells_keep_a_cap_from_being_kept(tmp_path):
    lab = with_budget(Lab(tmp_path), kwh=5)
    lab.inference("a", needs=None, energy=None)
    lab.inference("b", needs=None, run=False, precision="b")
    now = status(lab.results())
    assert (now.budget[0].used, now.budget[0].share) == (None, None)
    assert now.budget[0].line() == "? of 5 kWh"
    assert now.stopped_by_budget == "stopped by the budget: ? of 5 kWh used, 1 stage left, unknown kWh needed"


def test_watching_tells_how_much_is_used_and_ends_at_once_when_nothing_more_starts(lab):
    with_budget(lab, kwh=0.81).results()
    console = Console(width=40, file=io.StringIO())
    watch(lambda: status(load(lab.folder)), console, seconds=0.02, patience_s=1000.0)
    assert console.file.getvalue().splitlines() == [
        "2 of 4 stages finished, 0 running, 2 left; 1,800,000 J useful, 1,080,000 J lost, 99 % of kWh used",
        "stopped by the budget: 0.8 of 0.81 kWh used, 2 stages left, ~0.2 kWh needed; "
        "a run with a larger budget goes on from here",
    ]
