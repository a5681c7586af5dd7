"""Golden cases, worked by hand: E = joules per request + fine-tuning / requests, R = w phi + (1 - w) rho."""

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from analysis import answer, left_out, ranking
from energyaware.errors import InputError
from tests.analysis.builders import GOOD, Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")


def accuracy(value: float | None) -> dict:
    return {"root_cause": {"accuracy": value}}


def ranked(lab: Lab, **options) -> list[dict]:
    return ranking(lab.results(), **options).collect().to_dicts()


def by_precision(lab: Lab, **options) -> dict[str, dict]:
    return {row["precision"]: row for row in ranked(lab, **options)}


def reasons(lab: Lab) -> dict[str, tuple[str, str]]:
    return {row["stage_id"]: (row["state"], row["reason"]) for row in left_out(lab.results()).collect().to_dicts()}


def test_the_score_weighs_energy_against_quality(lab):
    lab.finetune(energy_j=1000.0)
    lab.inference("a", precision="fp32", energy=3.9, quality=accuracy(0.9))
    lab.inference("b", precision="bf16", energy=1.9, quality=accuracy(0.7))
    lab.inference("c", precision="int8", energy=0.9, quality=accuracy(0.2))
    # E = 4, 2, 1; minmax phi = 0, 2/3, 1; ratio = 1/4, 1/2, 1; R at w = 0.4: 0.54, 0.6867, 0.52
    rows = ranked(lab, weight=0.4, requests=10_000)
    assert [(row["rank"], row["precision"]) for row in rows] == [(1, "bf16"), (2, "fp32"), (3, "int8")]
    assert [row["energy_j_per_request"] for row in rows] == pytest.approx([2.0, 4.0, 1.0])
    assert [row["phi"] for row in rows] == pytest.approx([2 / 3, 0.0, 1.0])
    assert [row["phi_ratio"] for row in rows] == pytest.approx([0.5, 0.25, 1.0])
    assert [row["score"] for row in rows] == pytest.approx([0.4 * 2 / 3 + 0.42, 0.54, 0.52])
    assert rows[0]["stage_ids"] == ["b", "ft"]
    assert rows[0]["finetune_energy_j"] == 1000.0
    # 360 g/kWh is 1e-4 g/J
    assert rows[0]["carbon_g_per_request"] == pytest.approx(2.0e-4)


def test_phi_picks_the_efficiency_in_the_score(lab):
    lab.inference("a", precision="fp32", needs=None, energy=4.0)
    lab.inference("b", precision="bf16", needs=None, energy=2.0)
    rows = by_precision(lab, weight=1.0, phi="ratio")
    assert {name: row["score"] for name, row in rows.items()} == {"bf16": 1.0, "fp32": 0.5}
    assert {name: row["phi_minmax"] for name, row in rows.items()} == {"bf16": 1.0, "fp32": 0.0}


def test_taking_a_configuration_out_reverses_two_others_under_minmax_and_not_under_ratio(tmp_path):
    def order(name: str, *, with_third: bool, phi: str) -> list[str]:
        lab = Lab(tmp_path / name)
        lab.inference("a", precision="A", needs=None, energy=2.0, quality=accuracy(0.8))
        lab.inference("b", precision="B", needs=None, energy=1.0, quality=accuracy(0.5))
        if with_third:
            lab.inference("c", precision="C", needs=None, energy=11.0, quality=accuracy(0.0))
        return [row["precision"] for row in ranked(lab, phi=phi) if row["precision"] != "C"]

    # with C: phi = 0.9 and 1, R = 0.85 and 0.75; without: phi = 0 and 1, R = 0.4 and 0.75
    assert order("three", with_third=True, phi="minmax") == ["A", "B"]
    assert order("two", with_third=False, phi="minmax") == ["B", "A"]
    # phi = 1/2 and 1 either way, R = 0.65 and 0.75
    assert order("three-ratio", with_third=True, phi="ratio") == ["B", "A"]
    assert order("two-ratio", with_third=False, phi="ratio") == ["B", "A"]


def test_equal_scores_share_a_rank_and_the_next_rank_is_skipped(lab):
    # phi = 1, 0.5, 0 and rho = 0.1, 0.6, 0.2 at w = 0.5: R = 0.55, 0.55, 0.1
    lab.inference("a", precision="nf4", needs=None, energy=1.0, quality=accuracy(0.1))
    lab.inference("b", precision="bf16", needs=None, energy=2.0, quality=accuracy(0.6))
    lab.inference("c", precision="fp32", needs=None, energy=3.0, quality=accuracy(0.2))
    assert [(row["rank"], row["precision"]) for row in ranked(lab)] == [(1, "bf16"), (1, "nf4"), (3, "fp32")]


def test_a_tie_survives_floating_point(lab):
    # 0.1 + 0.2 is not 0.3 in floats: rho = mean(0.1, 0.2) and 0.15
    lab.inference("a", precision="A", needs=None, quality={"t": {"x": 0.1, "y": 0.2}})
    lab.inference("b", precision="B", needs=None, quality={"t": {"x": 0.15, "y": 0.15}})
    assert [row["rank"] for row in ranked(lab, weight=0.0)] == [1, 1]


@pytest.mark.parametrize(("weight", "first", "score"), [(0.0, "fp32", 0.9), (1.0, "int8", 1.0)])
def test_weight_0_is_quality_alone_and_1_energy_alone(lab, weight, first, score):
    lab.inference("a", precision="fp32", needs=None, energy=4.0, quality=accuracy(0.9))
    lab.inference("b", precision="int8", needs=None, energy=1.0, quality=accuracy(0.2))
    best = ranked(lab, weight=weight)[0]
    assert (best["precision"], best["score"]) == (first, score)


def test_rho_is_the_mean_of_tasks_and_not_of_metrics(lab):
    lab.inference("a", needs=None, quality={"root_cause": {"accuracy": 0.8}, "response": {"rouge_l": 0.3, "bleu": 0.1}})
    assert ranked(lab)[0]["rho"] == pytest.approx((0.8 + 0.2) / 2)


def test_a_single_row_has_full_efficiency(lab):
    lab.inference("a", needs=None, energy=3.0, quality=accuracy(0.6))
    (row,) = ranked(lab)
    assert (row["rank"], row["phi_minmax"], row["phi_ratio"], row["score"]) == (1, 1.0, 1.0, 0.8)


def test_equal_energies_all_have_full_efficiency_and_a_note_says_so(lab):
    lab.inference("a", precision="A", needs=None, quality=accuracy(0.6))
    lab.inference("b", precision="B", needs=None, quality=accuracy(0.4))
    assert [(row["phi"], row["phi_ratio"]) for row in ranked(lab)] == [(1.0, 1.0), (1.0, 1.0)]
    assert any("says nothing" in note for note in answer(lab.results()).notes)


def test_energies_that_differ_by_rounding_are_equal(lab):
    lab.finetune(energy_j=2.0)
    lab.inference("a", precision="A", energy=0.1)
    lab.inference("b", precision="B", energy=0.3, needs=None)
    assert 0.1 + 2 / 10 != 0.3
    assert [row["phi"] for row in ranked(lab, requests=10)] == [1.0, 1.0]


def test_an_empty_ranking_is_empty_and_not_an_error(lab):
    lab.finetune(run=False)
    lab.inference("a", run=False)
    assert ranked(lab) == []
    assert answer(lab.results()).notes == ["nothing to rank yet"]


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


def test_a_base_model_spent_nothing_on_fine_tuning(lab):
    lab.inference("a", needs=None, energy=3.0)
    (row,) = ranked(lab, requests=1)
    assert (row["finetune_energy_j"], row["energy_j_per_request"], row["stage_ids"]) == (0.0, 3.0, ["a"])


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


def test_fine_tuning_is_spread_over_the_requests(lab):
    lab.finetune("cheap", energy_j=10.0)
    lab.finetune("dear", energy_j=1000.0)
    lab.inference("a", precision="fp32", needs="cheap", energy=2.0)
    lab.inference("b", precision="bf16", needs="dear", energy=1.0)
    few, many = by_precision(lab, requests=100), by_precision(lab, requests=100_000)
    assert few["fp32"]["energy_j_per_request"] == pytest.approx(2.1)
    assert few["bf16"]["energy_j_per_request"] == pytest.approx(11.0)
    assert (few["fp32"]["rank"], many["bf16"]["rank"]) == (1, 1)


@pytest.mark.parametrize(
    "options",
    [{"requests": 0}, {"requests": -5}, {"weight": -0.1}, {"weight": 1.1}, {"weight": math.nan}, {"phi": "best"}],
)
def test_arguments_out_of_range_are_refused(lab, options):
    lab.inference("a", needs=None)
    with pytest.raises(InputError, match=f"{next(iter(options))}.*not allowed"):
        ranking(lab.results(), **options)


def test_seeds_of_one_configuration_are_one_row_of_means(lab):
    for seed, (energy, value, tuning) in enumerate([(1.0, 0.6, 100.0), (3.0, 0.8, 300.0)]):
        lab.finetune(f"ft{seed}", seed=seed, energy_j=tuning)
        lab.inference(f"i{seed}", seed=seed, needs=f"ft{seed}", energy=energy, quality=accuracy(value))
    (row,) = ranked(lab, requests=100)
    assert row["seeds"] == [0, 1]
    assert row["stage_ids"] == ["i0", "i1", "ft0", "ft1"]
    assert row["energy_j_per_request"] == pytest.approx(2.0 + 200.0 / 100)
    assert row["rho"] == pytest.approx(0.7)
    assert row["quality"] == [{"task": "root_cause", "metric": "accuracy", "value": pytest.approx(0.7)}]


def test_a_seed_without_quality_is_left_out_and_the_others_are_ranked(lab):
    lab.inference("i0", seed=0, needs=None)
    lab.inference("i1", seed=1, needs=None, quality=accuracy(None))
    assert [row["seeds"] for row in ranked(lab)] == [[0]]
    assert reasons(lab) == {"i1": ("incomplete", "no quality of root_cause")}


def test_other_settings_are_another_configuration(lab):
    lab.inference("a", needs=None, settings='{"batch_size":1,"seed":0}')
    lab.inference("b", needs=None, settings='{"batch_size":8,"seed":0}')
    lab.inference("c", needs=None, settings='{"seed":1,"batch_size":8}', seed=1)
    assert sorted(row["seeds"] for row in ranked(lab)) == [[0], [0, 1]]


def test_fine_tunings_with_other_settings_are_another_configuration(lab):
    lab.finetune("slow", settings='{"learning_rate":0.1,"seed":0}')
    lab.finetune("fast", settings='{"learning_rate":0.2,"seed":0}')
    lab.inference("a", needs="slow")
    lab.inference("b", needs="fast")
    assert sorted(row["stage_ids"] for row in ranked(lab)) == [["a", "slow"], ["b", "fast"]]


def test_simulated_pruning_is_ranked_with_the_energy_of_its_dense_parent(lab):
    on_cpu = {"device": "cpu", "device_name": "EPYC"}
    lab.finetune(energy_j=1000.0, **on_cpu)
    lab.inference("dense", energy=2.0, device="cpu", device_name="Xeon")
    pruned = {"pruning": "magnitude-50%", "pruning_applied": "after"} | on_cpu
    lab.inference("pruned", energy=1.0, realisation="simulated", carbon_g_per_kwh=100.0, **pruned)
    lab.inference("other", energy=1.5, precision="nf4", **on_cpu)
    rows = {row["stage_ids"][0]: row for row in ranked(lab)}
    assert rows["pruned"]["energy_from"] == "dense parent"
    assert rows["pruned"]["energy_j_per_request"] == pytest.approx(2.1)
    assert rows["pruned"]["own_energy_j_per_request"] == 1.0
    # 2 J at the parent's 360 g/kWh, 0.1 J at that of the fine-tuning
    assert rows["pruned"]["carbon_g_per_request"] == pytest.approx(2.1e-4)
    assert rows["pruned"]["phi"] == rows["dense"]["phi"] == 0.0
    assert rows["pruned"]["devices"] == ["cpu EPYC", "cpu Xeon"]
    assert rows["dense"]["energy_from"] == rows["other"]["energy_from"] == "own"


def test_simulated_pruning_before_fine_tuning_keeps_its_own_fine_tuning_energy(lab):
    lab.finetune("ft", energy_j=1000.0)
    lab.finetune("ft-pruned", energy_j=3000.0, pruning="magnitude-50%", pruning_applied="before")
    lab.inference("dense", energy=2.0)
    pruned = {"pruning": "magnitude-50%", "pruning_applied": "before", "realisation": "simulated"}
    lab.inference("pruned", needs="ft-pruned", energy=1.0, **pruned)
    rows = {row["stage_ids"][0]: row for row in ranked(lab, requests=1000)}
    assert rows["pruned"]["energy_from"] == "dense parent"
    assert rows["pruned"]["energy_j_per_request"] == pytest.approx(2.0 + 3.0)


def test_the_dense_parent_may_be_one_that_the_plan_no_longer_asks_for(lab):
    lab.inference("dense", needs=None, energy=2.0)
    lab.inference("pruned", needs=None, energy=1.0, pruning="m", pruning_applied="after", realisation="simulated")
    lab.plan = [row for row in lab.plan if row["stage_id"] != "dense"]
    (row,) = ranked(lab)
    assert (row["energy_from"], row["energy_j_per_request"]) == ("dense parent", 2.0)


def test_without_a_dense_parent_simulated_pruning_keeps_its_own_energy_and_says_so(lab):
    lab.inference("dense", needs=None, precision="nf4", energy=2.0)
    lab.inference("pruned", needs=None, energy=1.0, pruning="m", pruning_applied="after", realisation="simulated")
    rows = {row["stage_ids"][0]: row for row in ranked(lab)}
    assert rows["pruned"]["energy_from"] == "own (no dense parent)"
    assert rows["pruned"]["energy_j_per_request"] == 1.0
    assert any(note.startswith("** simulated") for note in answer(lab.results()).notes)


def test_a_row_with_its_parents_energy_names_the_devices_of_both(lab):
    lab.inference("dense", needs=None, energy=2.0, device="cpu", device_name="Xeon")
    pruned = {"pruning": "m", "pruning_applied": "after", "realisation": "simulated"}
    lab.inference("pruned", needs=None, energy=1.0, device="cpu", device_name="EPYC", **pruned)
    rows = {row["stage_ids"][0]: row for row in ranked(lab)}
    assert rows["pruned"]["devices"] == ["cpu EPYC", "cpu Xeon"]
    assert rows["dense"]["devices"] == ["cpu Xeon"]
    assert rows["dense"]["mixed_devices"]


def test_real_sparsity_keeps_its_own_energy(lab):
    lab.inference("dense", needs=None, energy=2.0)
    pruned = {"pruning": "magnitude-2:4", "pruning_applied": "after", "realisation": "semi-structured-kernel"}
    lab.inference("pruned", needs=None, energy=1.0, **pruned)
    assert ranked(lab)[0]["energy_from"] == "own"
    assert ranked(lab)[0]["energy_j_per_request"] == 1.0


def test_only_what_the_plan_asks_for_is_compared(lab):
    lab.inference("a", needs=None, precision="A")
    lab.inference("b", needs=None, precision="B")
    lab.plan = lab.plan[:1]
    assert [row["precision"] for row in ranked(lab)] == ["A"]
    assert reasons(lab) == {}
    assert any("not in the plan" in note for note in answer(lab.results()).notes)


def test_without_a_plan_all_that_is_finished_is_compared_and_what_failed_is_left_out(tmp_path):
    lab = Lab(tmp_path, planned=False)
    lab.inference("a", needs=None, precision="A")
    lab.inference("b", needs=None, precision="B", run=False)
    lab.attempt("b", "failed", reason="no memory")
    assert [row["precision"] for row in ranked(lab)] == ["A"]
    (left,) = left_out(lab.results()).collect().to_dicts()
    assert (left["precision"], left["seed"], left["state"], left["reason"]) == ("B", 0, "failed", "no memory")


def test_devices_are_not_mixed_silently(lab):
    lab.inference("a", precision="A", needs=None, device="cpu", device_name="Xeon")
    lab.inference("b", precision="B", needs=None, device="cpu", device_name="EPYC")
    assert [row["devices"] for row in ranked(lab)] == [["cpu Xeon"], ["cpu EPYC"]]
    assert all(row["mixed"] for row in ranked(lab))
    assert any("cpu EPYC, cpu Xeon" in note for note in answer(lab.results()).notes)


def test_one_device_for_fine_tuning_and_another_for_serving_is_no_mix(lab):
    lab.finetune(device_name="H200")
    lab.inference("a", precision="A", device_name="A100")
    lab.inference("b", precision="B", device_name="A100")
    assert not any(row["mixed"] for row in ranked(lab))
    assert not any("mixed" in note for note in answer(lab.results()).notes)


def test_carbon_is_unknown_without_a_factor_and_the_ranking_is_unharmed(lab):
    lab.finetune(carbon_g_per_kwh=None)
    lab.inference("a")
    (row,) = ranked(lab)
    assert row["carbon_g_per_request"] is None
    assert row["energy_j_per_request"] == pytest.approx(1.1)


def test_carbon_of_a_configuration_is_unknown_if_that_of_one_seed_is(lab):
    lab.inference("i0", seed=0, needs=None, energy=1.0)
    lab.inference("i1", seed=1, needs=None, energy=2.0, carbon_g_per_kwh=None)
    (row,) = ranked(lab)
    assert (row["carbon_g_per_request"], row["energy_j_per_request"]) == (None, 1.5)


def test_the_quality_of_the_attempt_that_finished_counts(lab):
    lab.inference("a", needs=None, attempt=1, quality=accuracy(0.1))
    lab.inference("a", needs=None, attempt=2, quality=accuracy(0.9))
    assert ranked(lab)[0]["rho"] == 0.9


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
