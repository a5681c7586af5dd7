"""What drives energy and quality, from results folders on."""

import json
import math
import re
from itertools import product

import numpy as np
import polars as pl
import pytest
from statsmodels.stats.multitest import multipletests

from analysis.statistics import statistics
from analysis.statistics.show import as_csv
from energyaware.errors import InputError
from tests.analysis.builders import Lab
from tests.analysis.factorial import POINTS, TRUE, effects, factorial, inference, settings


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def test_known_effects_are_found_within_their_intervals(lab):
    factorial(lab)
    found = statistics(lab.results(), ["energy", "quality"])
    tests = effects(found, "energy")
    assert tests.keys() == {"precision", "pruning", "precision x pruning"}
    assert (tests["precision"]["df"], tests["precision"]["df_residual"], tests["precision"]["n"]) == (2, 27, 36)
    assert max(tests[name]["p_holm"] for name in ("precision", "pruning")) < 1e-6 < tests["precision x pruning"]["p"]
    assert tests["precision"]["partial_omega_squared"] > 0.9
    for level in ("bf16", "nf4", "heads-25%", "neurons-50%"):
        energy, quality = effects(found, "energy", level), effects(found, "quality", level)
        assert energy["low"] < TRUE[level] < energy["high"] < 1
        assert quality["low"] < POINTS[level] < quality["high"]
        assert (energy["scale"], quality["scale"]) == ("ratio", "difference")
        assert energy["reference"] == ("fp32" if energy["term"] == "precision" else "none")
    assert effects(found, "quality", "bf16")["p_holm"] > 0.05 > effects(found, "quality", "nf4")["p_holm"]


def test_effects_are_said_in_words(lab):
    factorial(lab)
    found = statistics(lab.results(), ["energy", "quality"])
    row = effects(found, "energy", "nf4")
    said = f"nf4 takes {row['effect']:.3g} times the joules per request of fp32 [{row['low']:.3g}, {row['high']:.3g}]"
    assert row["words"] == said
    assert effects(found, "quality", "heads-25%")["words"].startswith("heads-25% changes rho by -0.1")
    assert effects(found, "quality", "heads-25%")["words"].split(" [")[0].endswith("against no pruning")


def test_p_values_are_corrected_over_all_tests_of_a_response(lab):
    factorial(lab)
    found = statistics(lab.results(), ["energy"]).effects
    assert found["p"].null_count() == 0
    for name in ("p", "p_robust"):
        expected = multipletests(found[name].to_list(), method="holm")[1]
        assert found[f"{name}_holm"].to_list() == pytest.approx(list(expected))
    assert found.height == 3 + 4


def test_an_interaction_is_found_and_said(lab):
    rng = np.random.default_rng(1)
    for number, (precision, pruning, seed) in enumerate(product(("fp32", "nf4"), ("none", "heads-25%"), range(4))):
        together = 1.5 if (precision, pruning) == ("nf4", "heads-25%") else 1.0
        inference(lab, number, precision, pruning, seed=seed, energy=together * math.exp(rng.normal(scale=0.02)))
    found = statistics(lab.results(), ["energy"])
    assert effects(found, "energy")["precision x pruning"]["p_holm"] < 0.001
    assert any("energy: precision x pruning interact" in note for note in found.notes)


def test_with_one_seed_and_few_stages_it_says_what_cannot_be_told_and_invents_nothing(lab):
    lab.finetune("ft")
    for number, precision in enumerate(("fp32", "bf16", "int8", "nf4")):
        rho = {"root_cause": {"accuracy": 0.8 - number**2 / 100}}
        lab.inference(f"d{number}", precision=precision, energy=1.0 + number, quality=rho, settings=settings())
        simulated = {"pruning": "wanda-2:4", "pruning_applied": "after", "realisation": "simulated"}
        lab.inference(f"p{number}", precision=precision, energy=0.1, settings=settings(), **simulated)
    found = statistics(lab.results())
    energy = found.effects.filter(pl.col("response") == "energy")
    assert energy["p"].null_count() == energy["low"].null_count() == energy.height == 4
    assert energy["reason"].unique().to_list() == ["no residual degrees of freedom"]
    assert (
        effects(found, "energy", "nf4")["words"]
        == "nf4 takes 4 times the joules per request of fp32, without an interval"
    )
    notes = "\n".join(found.notes)
    assert "energy, measured: nothing can be tested: no residual degrees of freedom: as many effects as stages" in notes
    assert "energy, measured: no combination" not in notes
    assert "quality: no combination of settings was measured twice" in notes
    assert "tuning, measured: 1 stage with the same settings: nothing to compare" in notes
    assert "seconds: 4 stages left out: seconds is unknown, or no possible value" in notes


def test_simulated_pruning_can_neither_save_nor_cost_energy(lab):
    factorial(lab)
    for number, seed in enumerate(range(4), start=100):
        cheap = {"pruning": "wanda-2:4", "realisation": "simulated", "seed": seed, "energy": 0.01 + seed / 1000}
        inference(lab, number, "fp32", rho=0.7 + seed / 1000, sparsity_achieved=0.5, **cheap)
    found = statistics(lab.results())
    of_energy = found.effects.filter(pl.col("response").is_in(["energy", "seconds"]))
    assert "wanda-2:4" not in of_energy["level"].to_list()
    assert effects(found, "quality", "wanda-2:4")["effect"] == pytest.approx(-0.1, abs=0.02)
    assert (
        "energy: 4 stages left out: simulated pruning, which runs on dense kernels and can save nothing" in found.notes
    )
    pair = found.correlations.filter(pl.col("first") == "energy_j_per_request", pl.col("second") == "rho")
    assert pair["n"].to_list() == [9]


def test_a_pruning_that_does_not_say_how_it_was_realised_counts_as_simulated(lab):
    factorial(lab, prunings=("none",))
    for number, seed in enumerate(range(4), start=100):
        inference(lab, number, pruning="wanda-2:4", realisation=None, seed=seed, energy=0.01)
    assert "wanda-2:4" not in statistics(lab.results(), ["energy"]).effects["level"].to_list()


def test_measured_and_estimated_joules_are_analysed_apart(lab):
    factorial(lab, prunings=("none",))
    for number, (precision, seed) in enumerate(product(("fp32", "nf4"), range(3)), start=100):
        joules = 50.0 * (2.0 if precision == "nf4" else 1.0) * (1 + seed / 100)
        rho = 0.8 if precision == "nf4" else 0.7
        inference(lab, number, precision, seed=seed, energy=joules, rho=rho, measured=False)
    found = statistics(lab.results(), ["energy", "quality"])
    by_pool = {
        row["pool"]: row["effect"]
        for row in found.effects.filter(pl.col("response") == "energy", pl.col("level") == "nf4").to_dicts()
    }
    assert by_pool == {"measured": pytest.approx(0.42, rel=0.1), "estimated": pytest.approx(2.0)}
    told = "joules of several origins are analysed apart, never together: estimated (6 stages), measured (12 stages)"
    assert f"energy: {told}" in found.notes
    assert found.effects.filter(pl.col("response") == "quality")["pool"].unique().to_list() == ["all"]
    assert set(found.correlations["pool"]) == {"measured on cuda H200", "estimated on cuda H200"}


def test_kinds_of_gpu_are_a_factor_and_not_mixed_silently(lab):
    rng = np.random.default_rng(2)
    for number, (precision, gpu, seed) in enumerate(product(("fp32", "nf4"), ("A100", "H200"), range(3))):
        joules = (
            (0.5 if precision == "nf4" else 1.0) * (3.0 if gpu == "A100" else 1.0) * math.exp(rng.normal(scale=0.01))
        )
        inference(lab, number, precision, seed=seed, energy=joules, device_name=gpu)
    found = statistics(lab.results(), ["energy"])
    assert effects(found, "energy", "cuda H200")["effect"] == pytest.approx(1 / 3, rel=0.05)
    assert effects(found, "energy", "nf4")["effect"] == pytest.approx(0.5, rel=0.05)


def test_settings_that_differ_are_factors_and_batch_sizes_are_levels_in_order(lab):
    rng = np.random.default_rng(3)
    for number, (precision, batch, seed) in enumerate(product(("fp32", "nf4"), (2, 16, 128), range(3))):
        joules = (
            (0.5 if precision == "nf4" else 1.0) * {2: 1.0, 16: 0.4, 128: 0.2}[batch] * math.exp(rng.normal(scale=0.01))
        )
        inference(lab, number, precision, seed=seed, energy=joules, settings=settings(batch_size=batch, seed=seed))
    found = statistics(lab.results(), ["energy"])
    rows = [row for row in found.effects.to_dicts() if row["term"] == "batch_size" and row["level"]]
    assert [(row["level"], row["reference"]) for row in rows] == [("16", "2"), ("128", "2")]
    assert [row["effect"] for row in rows] == pytest.approx([0.4, 0.2], rel=0.05)
    assert re.match(r"batch_size 16 takes 0\.\d+ times the joules per request of batch_size 2 \[", rows[0]["words"])
    assert any(
        note.startswith("energy, measured: not varied") and "sequence_length (always 192)" in note
        for note in found.notes
    )
    pair = found.correlations.filter(pl.col("first") == "energy_j_per_request", pl.col("second") == "batch_size")
    assert pair["rho"].item() < -0.8


def test_settings_that_vary_together_are_named_and_tested_once(lab):
    for number, (precision, seed) in enumerate(product(("fp32", "nf4"), range(4))):
        batch = 8 if precision == "fp32" else 32
        inference(lab, number, precision, seed=seed, energy=1 + seed / 10, settings=settings(batch_size=batch))
    found = statistics(lab.results(), ["energy"])
    assert effects(found, "energy").keys() == {"precision"}
    assert (
        "energy, measured: batch_size is left out: it varies together with precision, and effects named precision are "
        "those of both" in found.notes
    )


def test_a_setting_that_is_not_known_of_all_is_no_factor_and_unreadable_settings_are_left_out(lab):
    for number in range(6):
        known = {"batch_size": 8 * (1 + number % 2)} if number else {}
        inference(
            lab, number, "fp32" if number < 3 else "nf4", seed=number, energy=1 + number, settings=json.dumps(known)
        )
    inference(lab, 6, "nf4", settings='{"batch_size": 8')
    found = statistics(lab.results(), ["energy"])
    assert effects(found, "energy").keys() == {"precision"}
    assert "energy, measured: batch_size is no factor: it is not known of 1 of 6 stages" in found.notes
    assert "energy: 1 stage left out: settings cannot be read" in found.notes


def test_before_and_after_are_compared_among_what_is_pruned(lab):
    rng = np.random.default_rng(4)
    number = 0
    for applied, factor in ((None, 1.0), ("after", 0.8), ("before", 0.7)):
        for seed in range(4):
            joules = factor * math.exp(rng.normal(scale=0.005))
            pruning = "none" if applied is None else "heads-25%"
            inference(lab, number, "bf16", pruning, pruning_applied=applied, seed=seed, energy=joules)
            number += 1
    found = statistics(lab.results(), ["energy"])
    assert effects(found, "energy", "heads-25%")["effect"] == pytest.approx(0.8, rel=0.02)
    before = effects(found, "energy", "before")
    assert (before["effect"], before["reference"], before["n"]) == (pytest.approx(0.7 / 0.8, rel=0.02), "after", 4)


def test_joules_that_are_missing_or_impossible_are_left_out_and_quality_stays(lab):
    factorial(lab, prunings=("none",))
    inference(lab, 90, "nf4", energy=None, seed=9)
    inference(lab, 91, "nf4", energy=0.0, seed=10)
    inference(lab, 92, "nf4", energy=math.nan, seed=11)
    inference(lab, 93, "nf4", energy=1e6, seed=12, marks=["decode: implausible: mean 9 kW"])
    inference(lab, 94, "nf4", energy=1.0, seed=13, rho=None)
    found = statistics(lab.results(), ["energy", "quality"])
    assert "energy: 3 stages left out: energy is unknown, or no possible value" in found.notes
    assert "energy: 1 stage left out: windows are marked implausible" in found.notes
    assert "quality: 1 stage left out: quality is missing or impossible" in found.notes
    assert effects(found, "energy")["precision"]["n"] == 13
    assert effects(found, "quality")["precision"]["n"] == 16


def test_settings_of_the_fine_tuning_drive_quality(lab):
    rng = np.random.default_rng(5)
    for rate, seed in product((0.001, 0.01), range(4)):
        lab.finetune(f"ft{rate}{seed}", seed=seed, energy_j=1000.0 + seed, settings=settings(learning_rate=rate))
        rho = {"root_cause": {"accuracy": (0.6 if rate == 0.001 else 0.8) + rng.normal(scale=0.01)}}
        lab.inference(f"i{rate}{seed}", seed=seed, needs=f"ft{rate}{seed}", quality=rho, settings=settings())
    found = statistics(lab.results(), ["quality", "energy", "tuning"])
    row = effects(found, "quality", "0.01")
    assert (row["term"], row["effect"]) == ("tuning learning_rate", pytest.approx(0.2, abs=0.03))
    assert row["words"].startswith("tuning learning_rate 0.01 changes rho by +0.")
    assert effects(found, "tuning")["learning_rate"]["p"] > 0.05
    assert any("energy, measured: 8 stages with the same settings" in note for note in found.notes)


def test_seconds_per_request_are_those_of_the_measured_windows(lab):
    for number, (precision, seed) in enumerate(product(("fp32", "nf4"), range(3))):
        stage = inference(lab, number, precision, seed=seed, prefill_requests=10)
        seconds = (2.0 if precision == "nf4" else 1.0) * (1 + seed / 100)
        spent = {"window": "prefill", "requests": 10, "kept": True, "duration_s": 10 * seconds, "energy_j": 1.0}
        lab.energy(stage, {**spent, "component": "cpu"}, {**spent, "component": "gpu"})
    found = statistics(lab.results(), ["seconds"])
    assert effects(found, "seconds", "nf4")["effect"] == pytest.approx(2.0)
    assert effects(found, "seconds", "nf4")["words"].startswith("nf4 takes 2 times the seconds per request of fp32")


def test_only_what_the_plan_asks_for_counts_unless_all_is_asked_for(lab):
    factorial(lab, prunings=("none",))
    lab.plan = [row for row in lab.plan if row["precision"] != "nf4"]
    results = lab.results()
    assert "nf4" not in statistics(results, ["energy"]).effects["level"].to_list()
    assert "nf4" in statistics(results, ["energy"], asked_only=False).effects["level"].to_list()


def test_violated_assumptions_are_said_and_robust_p_values_stand_beside(lab):
    rng = np.random.default_rng(6)
    for number, (precision, seed) in enumerate(product(("fp32", "nf4"), range(20))):
        scatter = 1.0 if precision == "nf4" else 0.02
        inference(lab, number, precision, seed=seed, energy=math.exp(rng.normal(scale=scatter)))
    found = statistics(lab.results(), ["energy"])
    assert found.effects["p_robust_holm"].null_count() == 0
    (note,) = [note for note in found.notes if "assumptions violated" in note]
    assert "residuals scatter unlike over precision" in note
    checked = found.assumptions.filter(pl.col("assumption") == "equal variances").to_dicts()
    assert [(row["about"], row["holds"]) for row in checked] == [("precision", False)]


def test_a_shared_fine_tuning_is_said(lab):
    for seed in range(2):
        lab.finetune(f"ft{seed}", seed=seed)
        for number, precision in enumerate(("fp32", "bf16", "nf4")):
            rho = {"root_cause": {"accuracy": 0.5 + number / 10 + seed / 50}}
            lab.inference(f"i{seed}{number}", seed=seed, needs=f"ft{seed}", precision=precision, quality=rho)
    (row,) = (
        statistics(lab.results(), ["quality"]).assumptions.filter(pl.col("assumption") == "independence").to_dicts()
    )
    assert "6 share their fine-tuning with others" in row["finding"]
    assert row["holds"] is None


def test_a_folder_in_which_nothing_has_finished_has_nothing_to_tell(lab):
    lab.inference("i", needs=None, run=False)
    found = statistics(lab.results())
    assert (found.effects.height, found.correlations.height, found.assumptions.height) == (0, 0, 0)
    assert "energy: no stages that can be analysed: nothing to compare" in found.notes
    assert as_csv(found).startswith("response,pool,term,level,")


def test_an_unknown_response_is_refused(lab):
    inference(lab, 0)
    with pytest.raises(InputError, match="'speed' is not allowed: one of energy, tuning, quality, seconds"):
        statistics(lab.results(), ["speed"])
