"""Golden cases, worked by hand: E = joules per request + fine-tuning / requests, R = w phi + (1 - w) rho."""

import math
from pathlib import Path

import pytest

from analysis import answer, ranking
from energyaware.errors import InputError
from tests.analysis.builders import Lab
from tests.analysis.ranked import accuracy, ranked, reasons


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")


def by_precision(lab: Lab, **options) -> dict[str, dict]:
    return {row["precision"]: row for row in ranked(lab, **options)}


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


def test_a_base_model_spent_nothing_on_fine_tuning(lab):
    lab.inference("a", needs=None, energy=3.0)
    (row,) = ranked(lab, requests=1)
    assert (row["finetune_energy_j"], row["energy_j_per_request"], row["stage_ids"]) == (0.0, 3.0, ["a"])


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


def test_only_what_the_plan_asks_for_is_compared(lab):
    lab.inference("a", needs=None, precision="A")
    lab.inference("b", needs=None, precision="B")
    lab.plan = lab.plan[:1]
    assert [row["precision"] for row in ranked(lab)] == ["A"]
    assert reasons(lab) == {}
    assert any("not in the plan" in note for note in answer(lab.results()).notes)


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
