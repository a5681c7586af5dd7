"""How sure a ranking is: cases worked by hand."""

import math

import pytest
from scipy import stats

from analysis.metrics import METRICS
from analysis.uncertainty import SCHEMA, uncertainty
from energyaware.rows import Row
from tests.analysis.bench import Bench, sure
from tests.analysis.frames import finetuning, grades, inference, results_of, window

DRAWS = 200_000
"""Enough for the ends of intervals to be known to some 2 %."""

REACH = 1 / stats.norm.ppf(0.525)
"""How far 95 % of the draws from two measurements reach to either side of their mean, in halves of their distance.

A draw is the mean -+ half the distance * sqrt(1 / chi2_1), and chi2_1 is z^2. In 5 % of them |z| is below 0.0627, so
1 / |z| is above 15.95.
"""

OF_TWO = pytest.approx((REACH, REACH), rel=0.05)

SIMULATED = {"pruning": "m", "pruning_applied": "after", "realisation": "simulated"}


def reach(row: Row, first: float, second: float, name: str = "energy") -> tuple[float, float]:
    """How far an interval reaches to either side of the mean of two measurements, in halves of their distance."""
    mean, half = (first + second) / 2, abs(second - first) / 2
    return (mean - row[f"{name}_low"]) / half, (row[f"{name}_high"] - mean) / half


def test_one_seed_and_one_repeat_have_no_interval_of_energy_and_say_why():
    bench = Bench().measure("A", [2.0]).measure("B", [1.0])
    for row in sure(bench).values():
        shown = {name: value for name, value in row.items() if name in SCHEMA and value is not None}
        assert set(shown) == {
            *("configuration", "rho_low", "rho_high", "replicates", "interval_covers", "interval_reason"),
        }
        assert row["interval_covers"] == "quality: one seed, 100 test examples"
        assert row["interval_reason"] == (
            "its energy was measured once, under one seed: how far it varies is not known; "
            "scores and ranks have no interval: 2 of 2 configurations have none of energy"
        )


def test_two_repeats_of_one_seed_make_an_interval_and_it_says_that_it_is_of_one_seed():
    row = sure(Bench().measure("A", [1.98, 2.02]), draws=DRAWS)["A"]
    assert reach(row, 1.98, 2.02) == OF_TWO
    assert row["replicates"] == 2
    assert row["interval_covers"] == "energy: one seed, 2 repeats each; quality: one seed, 100 test examples"
    assert row["interval_reason"] is None


def test_two_seeds_make_an_interval_with_their_fine_tunings():
    bench = Bench().measure("A", [2.0], needs="ft0").measure("A", [2.0006], needs="ft1", seed=1)
    bench.stages += [finetuning("ft0", 1000.5, seed=0), finetuning("ft1", 1000.0, seed=1)]
    # a seed brings its fine-tuning: 2 + 1.0005 J and 2.0006 + 1 J, not 2.0006 + 1.0005 J
    row = sure(bench, requests=1000, draws=DRAWS)["A"]
    assert reach(row, 3.0005, 3.0006) == OF_TWO
    assert row["interval_covers"] == "energy: 2 seeds, 1 repeat each; quality: 2 seeds, 100 test examples"


def test_repeats_of_several_seeds_count_with_the_mean_of_their_seed_alone():
    # 2 J and 2.02 J
    row = sure(Bench().measure("A", [1.0, 3.0]).measure("A", [2.01, 2.03], seed=1), draws=DRAWS)["A"]
    assert reach(row, 2.0, 2.02) == OF_TWO
    assert row["replicates"] == 4


@pytest.mark.parametrize(
    ("prefill_j", "decode_j", "first_j", "second_j"),
    [
        ((9.9, 10.1), (40.0, 20.0), 2.99, 3.01),  # 10 requests each: 0.99 or 1.01 J, and 2 J
        # 20 and 10 requests: 1 J less and 1 J more than 2 J a request, spread over 15 requests
        ((10.0, 10.0), (39.0, 21.0), 3 - 1 / 15, 3 + 1 / 15),
    ],
)
def test_prefill_and_decode_are_drawn_each_by_its_own_requests(prefill_j, decode_j, first_j, second_j):
    results = results_of(
        stages=[inference("a", 20 / 20 + 60 / 30)],
        quality=grades("a", {"root_cause": {"accuracy": 0.8}}),
        energy=[
            window("a", "prefill", prefill_j[0], repeat=1, requests=10),
            window("a", "prefill", prefill_j[1], repeat=2, requests=10),
            window("a", "decode", decode_j[0], repeat=1, requests=20),
            window("a", "decode", decode_j[1], repeat=2, requests=10),
        ],
    )
    (row,) = uncertainty(results, draws=DRAWS).to_dicts()
    assert reach(row, first_j, second_j) == OF_TWO


def test_windows_that_do_not_make_up_the_joules_of_the_stage_are_no_repeats_of_it():
    bench = Bench().measure("A", [1.0, 3.0])
    bench.stages[0]["energy_j_per_request"] = 2.5
    row = sure(bench)["A"]
    assert (row["energy_low"], row["energy_high"], row["replicates"]) == (None, None, 1)
    assert row["interval_reason"].startswith("its energy was measured once")


def test_net_joules_have_intervals_of_net_joules():
    bench = Bench().measure("A", [1.0, 3.0], energy_net_j_per_request=1.0)
    for row, net_j in zip(bench.energy, (9.9, 10.1), strict=True):
        row["energy_net_j"] = net_j
    assert reach(sure(bench, energy="net", draws=DRAWS)["A"], 0.99, 1.01) == OF_TWO


def test_the_interval_of_one_seeds_quality_is_that_of_a_proportion():
    row = sure(Bench().measure("A", [1.0, 2.0], 0.8, examples=100), draws=20_000)["A"]
    # Brown, Cai and DasGupta 2001: the interval of Jeffreys' prior, 80 of 100
    low, high = stats.beta.ppf([0.025, 0.975], 80.5, 20.5)
    assert (row["rho_low"], row["rho_high"]) == pytest.approx((low, high), abs=0.005)


def test_a_perfect_quality_on_few_examples_is_not_certain():
    row = sure(Bench().measure("A", [1.0, 2.0], 1.0, examples=10))["A"]
    assert row["rho_high"] == 1.0
    assert 0.7 < row["rho_low"] < 0.9


def test_an_unknown_number_of_examples_leaves_the_seeds_alone_and_one_seed_nothing():
    unknown = Bench().measure("A", [1.0, 2.0], 0.8, examples=None)
    row = sure(unknown)["A"]
    assert (row["rho_low"], row["rho_high"], row["best_probability"]) == (None, None, None)
    assert row["interval_reason"] == (
        "its quality is of one seed, and the number of test examples is not recorded; "
        "scores and ranks have no interval: 1 of 1 configurations have none of quality"
    )
    row = sure(unknown.measure("A", [1.0, 2.0], 0.79, examples=None, seed=1), draws=DRAWS)["A"]
    assert reach(row, 0.8, 0.79, "rho") == OF_TWO
    assert row["interval_covers"] == "energy: 2 seeds, 2 repeats each; quality: 2 seeds"


def test_what_has_no_weight_is_not_missed():
    once = Bench().measure("A", [2.0], 0.9).measure("B", [1.0], 0.4)
    assert sure(once, weight=0.0)["A"]["best_probability"] == 1.0
    ungraded = Bench().measure("A", [2.0, 2.0 + 1e-6], examples=None).measure("B", [1.0, 1.0 + 1e-6], examples=None)
    assert sure(ungraded, weight=1.0)["B"]["best_probability"] == 1.0
    assert sure(ungraded, weight=0.5)["B"]["best_probability"] is None


def test_one_configuration_without_an_interval_takes_the_order_from_all_and_is_counted():
    rows = sure(Bench().measure("A", [1.0, 1.1]).measure("B", [2.0]).measure("C", [3.0, 3.1]))
    assert {row["score_low"] for row in rows.values()} == {None}
    assert {row["best_probability"] for row in rows.values()} == {None}
    assert rows["A"]["energy_low"] < 1.0
    assert rows["C"]["energy_high"] > 3.1
    assert rows["A"]["interval_reason"] == (
        "scores and ranks have no interval: 1 of 3 configurations have none of energy"
    )


def test_configurations_that_are_far_apart_are_surely_in_order():
    near_1_j, near_2_j = [1.0, 1.01, 1.02, 0.99, 1.0], [2.0, 2.02, 1.99, 2.0, 2.01]
    bench = Bench().measure("A", near_1_j, 0.9, examples=1000).measure("B", near_2_j, 0.5, examples=1000)
    rows = sure(bench)
    assert [(row["rank_low"], row["rank_high"]) for row in rows.values()] == [(1, 1), (2, 2)]
    assert [row["best_probability"] for row in rows.values()] == [1.0, 0.0]
    assert [row["tied_with_best"] for row in rows.values()] == [True, False]


def test_identical_configurations_are_tied_and_each_is_as_likely_the_best():
    bench = Bench()
    for name in "ABCD":
        for seed, energy_j in enumerate([1.0, 1.2, 1.1, 1.3]):
            bench.measure(name, [energy_j, energy_j * 1.02], 0.7 + 0.01 * seed, seed=seed)
    rows = sure(bench)
    assert all(row["tied_with_best"] for row in rows.values())
    assert sum(row["best_probability"] for row in rows.values()) == pytest.approx(1.0)
    assert [row["best_probability"] for row in rows.values()] == pytest.approx([0.25] * 4, abs=0.05)
    assert [(row["rank_low"], row["rank_high"]) for row in rows.values()] == [(1, 4)] * 4


def test_a_simulated_pruning_shares_every_draw_of_its_dense_parents_energy():
    bench = Bench().measure("A", [1.0, 1.5, 1.2]).measure("A", [1.4, 1.1, 1.3], seed=1)
    bench.measure("A", [0.5, 0.1], **SIMULATED).measure("A", [0.4, 0.2], seed=1, **SIMULATED)
    bench.measure("B", [9.0, 9.9, 9.5]).measure("B", [9.1, 9.8, 9.6], seed=1)
    rows = sure(bench, weight=1.0)
    for name in ("energy_low", "energy_high", "score_low", "score_high", "replicates"):
        assert rows["A"][name] == rows["A pruned"][name]
    # in every draw the two are first together
    assert [rows[name]["best_probability"] for name in ("A", "A pruned", "B")] == [0.5, 0.5, 0.0]
    assert [(rows[name]["rank_low"], rows[name]["rank_high"]) for name in ("A", "A pruned", "B")] == [
        *[(1, 1), (1, 1), (3, 3)]
    ]
    assert rows["A pruned"]["interval_covers"].startswith("energy: 2 seeds, 3 repeats each of its dense parent;")


def test_a_simulated_pruning_whose_parent_was_measured_once_says_so():
    bench = Bench().measure("A", [1.0]).measure("A", [0.5, 0.1], **SIMULATED)
    reason = sure(bench)["A pruned"]["interval_reason"]
    assert reason.startswith("the energy of its dense parent was measured once, under one seed")


def test_every_metric_has_an_interval_of_its_own_unit():
    factors = {"carbon_g_per_kwh": 360.0, "price_per_kwh": 0.36, "pue": 1.0}
    bench = Bench().measure("A", [1.98, 2.02], 0.5, examples=10_000, **factors)
    for row, duration_s in zip(bench.energy, (19.8, 20.2), strict=True):
        row["duration_s"] = duration_s
    low_j, high_j = 2 - 0.02 * REACH, 2 + 0.02 * REACH
    expected = {
        "request": (low_j, high_j),
        "token": (low_j / 50, high_j / 50),
        "correct": (low_j / 0.5, high_j / 0.5),
        "edp": (low_j**2, high_j**2),  # the repeat of 1.98 J a request is that of 1.98 s
        "carbon": (low_j * 1e-4, high_j * 1e-4),
        "cost": (low_j * 1e-7, high_j * 1e-7),
    }
    assert list(expected) == list(METRICS)
    for metric, ends in expected.items():
        row = sure(bench, metric=metric, draws=DRAWS)["A"]
        assert (row["energy_low"], row["energy_high"]) == pytest.approx(ends, rel=0.02)


def test_correct_answers_and_quality_come_from_the_same_test_set():
    """Joules per correct answer are low where rho is high, so that the score varies more than if each varied alone."""
    bench = Bench().measure("A", [1.0, 1.0 + 1e-9], 0.5, examples=50).measure("B", [9.0, 9.0 + 1e-9], 0.5, examples=50)
    alone = [sure(bench, metric="correct", phi="ratio", weight=weight)["B"] for weight in (0.0, 1.0)]
    both = sure(bench, metric="correct", phi="ratio", weight=0.5)["B"]
    half_widths = [0.5 * (row["score_high"] - row["score_low"]) for row in alone]
    assert both["score_high"] - both["score_low"] > 1.02 * math.hypot(*half_widths)


def test_a_repeat_is_drawn_with_the_time_that_it_took():
    bench = Bench().measure("A", [1.98, 2.02])
    bench.energy[0]["duration_s"], bench.energy[1]["duration_s"] = 40.4, 39.6
    # (2 + d) J * (4 - 2 d) s = (8 - 2 d^2) J*s, d = -+ 0.02 / |z|, and never (2 + d) J * (4 + 2 d) s
    row = sure(bench, metric="edp", draws=DRAWS)["A"]
    furthest_j = 0.02 / stats.norm.ppf(0.5125)  # 2.5 % of the draws lie beyond it
    assert 8 - row["energy_low"] == pytest.approx(2 * furthest_j**2, rel=0.1)
    assert row["energy_high"] == pytest.approx(8.0)


def test_a_simulated_pruning_has_the_fine_tuning_of_its_own():
    bench = Bench()
    for seed, energy_j in enumerate([1000.0, 1010.0]):
        bench.measure("A", [2.0], seed=seed, needs=f"ft{seed}")
        bench.measure("A", [9.0], seed=seed, needs=f"pruned{seed}", **SIMULATED | {"pruning_applied": "before"})
        bench.stages += [finetuning(f"ft{seed}", 1000.0, seed=seed), finetuning(f"pruned{seed}", energy_j, seed=seed)]
    row = sure(bench, requests=1000, draws=DRAWS)["A pruned"]
    assert reach(row, 2.0 + 1.0, 2.0 + 1.01) == OF_TWO


@pytest.mark.parametrize(("rho", "level", "tied"), [(0.7, 0.95, True), (0.7, 0.8, False), (0.6, 0.95, False)])
def test_a_tie_is_a_share_of_the_draws(rho, level, tied):
    # 0.8 and 0.7 of 100 are 0.1 / sqrt(0.8 * 0.2 / 100 + 0.7 * 0.3 / 100) = 1.64 standard deviations apart: 5 % of the
    # draws, between 2.5 % and 10 %; 0.8 and 0.6 are 3.2 apart
    bench = Bench().measure("A", [1.0, 1.1], 0.8).measure("B", [1.0, 1.1], rho)
    assert sure(bench, weight=0.0, level=level)["B"]["tied_with_best"] is tied


def test_a_draw_is_at_least_a_thousandth_of_what_was_measured():
    row = sure(Bench().measure("A", [1.0, 3.0]), draws=DRAWS)["A"]
    assert row["energy_low"] == pytest.approx(0.002)
    assert reach(row, 1.0, 3.0)[1] == pytest.approx(REACH, rel=0.05)
    seeds = Bench().measure("A", [1.0], 0.2, examples=None).measure("A", [3.0], 0.8, examples=None, seed=1)
    row = sure(seeds, draws=DRAWS)["A"]
    assert row["energy_low"] == pytest.approx(0.002)
    assert (row["rho_low"], row["rho_high"]) == pytest.approx((0.0005, 1.0))


def test_seeds_are_drawn_together_so_what_is_dearer_under_each_is_dearer_in_every_draw():
    bench = Bench()
    for seed, energy_j in enumerate([1.0, 2.0, 1.4]):
        bench.measure("A", [energy_j], seed=seed).measure("B", [1.01 * energy_j], seed=seed)
    rows = sure(bench, weight=1.0)
    assert rows["A"]["energy_high"] > 2 * rows["B"]["energy_low"]
    assert [rows[name]["best_probability"] for name in "AB"] == [1.0, 0.0]
    for name in ("energy_low", "energy_high"):
        assert rows["B"][name] == pytest.approx(1.01 * rows["A"][name])
