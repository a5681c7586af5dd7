"""Analysis of variance against textbook data, scipy and statsmodels' own formulas, and data whose truth is known."""

import numpy as np
import polars as pl
import pytest
from scipy import stats
from statsmodels.api import OLS
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis.statistics.anova import fit
from analysis.statistics.assumptions import assumption_rows
from analysis.statistics.design import design_of
from analysis.statistics.least_squares import LeastSquares
from analysis.statistics.responses import RESPONSES
from analysis.statistics.telling import words
from tests.analysis.fitted import ENERGY, RHO, crossed, factor, fitted, level_rows, levels, term_rows, terms

PLANT_GROWTH = {
    "ctrl": [4.17, 5.58, 5.18, 6.11, 4.50, 4.61, 5.17, 4.53, 5.33, 5.14],
    "trt1": [4.81, 4.17, 4.41, 3.59, 5.87, 3.83, 6.03, 4.89, 4.32, 4.69],
    "trt2": [6.31, 5.12, 5.54, 5.50, 5.37, 5.29, 4.92, 6.15, 5.80, 5.26],
}
"""Dobson 1983, An Introduction to Statistical Modelling; R's PlantGrowth, whose help analyses it."""

TOOTH_GROWTH = {
    ("OJ", "0.5"): [15.2, 21.5, 17.6, 9.7, 14.5, 10.0, 8.2, 9.4, 16.5, 9.7],
    ("OJ", "1"): [19.7, 23.3, 23.6, 26.4, 20.0, 25.2, 25.8, 21.2, 14.5, 27.3],
    ("OJ", "2"): [25.5, 26.4, 22.4, 24.5, 24.8, 30.9, 26.4, 27.3, 29.4, 23.0],
    ("VC", "0.5"): [4.2, 11.5, 7.3, 5.8, 6.4, 10.0, 11.2, 11.2, 5.2, 7.0],
    ("VC", "1"): [16.5, 16.5, 15.2, 17.3, 22.5, 17.3, 13.6, 14.5, 18.8, 15.5],
    ("VC", "2"): [23.6, 18.5, 33.9, 25.5, 26.4, 32.5, 26.7, 21.5, 23.3, 29.5],
}
"""Crampton 1947, The Journal of Nutrition 33, 491-504; R's ToothGrowth."""


def by_formula(values, formula, **factors):
    model = ols(f"y ~ {formula}", pl.DataFrame({"y": values, **factors}).to_pandas()).fit()
    return model, anova_lm(model, typ=2)


def test_one_factor_is_the_textbook_analysis_of_plant_growth():
    values = [weight for weights in PLANT_GROWTH.values() for weight in weights]
    found = fitted(values, group=[name for name in PLANT_GROWTH for _ in range(10)])
    (row,) = term_rows(found)
    assert (row["df"], row["df_residual"]) == (2, 27)
    assert row["sum_sq"] == pytest.approx(3.76634, abs=1e-5)
    assert row["statistic"] == pytest.approx(4.846, abs=1e-3)
    assert row["p"] == pytest.approx(0.01591, abs=1e-5)
    assert row["partial_eta_squared"] == pytest.approx(3.76634 / (3.76634 + 10.49209), abs=1e-5)
    # omega squared by its textbook definition for one factor: (SS - df MSE) / (SS_total + MSE)
    mse = 10.49209 / 27
    assert row["partial_omega_squared"] == pytest.approx((3.76634 - 2 * mse) / (3.76634 + 10.49209 + mse), abs=1e-5)
    assert row["p"] == pytest.approx(stats.f_oneway(*PLANT_GROWTH.values()).pvalue)


def test_two_factors_and_their_interaction_are_the_textbook_analysis_of_tooth_growth():
    values = [length for lengths in TOOTH_GROWTH.values() for length in lengths]
    supplement, dose = zip(*[cell for cell in TOOTH_GROWTH for _ in range(10)], strict=True)
    rows = terms(fitted(values, supp=supplement, dose=dose))
    expected = {
        "supp": (1, 205.35, 15.572, 0.000231),
        "dose": (2, 2426.434, 92.000, 4e-18),
        "supp x dose": (2, 108.319, 4.107, 0.02186),
    }
    assert rows.keys() == expected.keys()
    for name, (df, squares, statistic, p) in expected.items():
        row = rows[name]
        assert (row["df"], row["df_residual"]) == (df, 54)
        assert row["sum_sq"] == pytest.approx(squares, abs=1e-3)
        assert row["statistic"] == pytest.approx(statistic, abs=1e-3)
        assert row["p"] == pytest.approx(p, rel=0.2)


def test_an_unbalanced_design_is_analysed_as_statsmodels_own_formula_does():
    rng = np.random.default_rng(1)
    a, b, c = (rng.choice(list(names), 60) for names in ("xyz", "uv", "pq"))
    values = rng.normal(size=60) + (a == "y") * 0.8 + (b == "v") * (a == "z")
    _, expected = by_formula(values, "(a + b + c) ** 2", a=a, b=b, c=c)
    rows = terms(fitted(values, a=a, b=b, c=c))
    assert len(rows) == 6
    for name, row in rows.items():
        other = expected.loc[name.replace(" x ", ":")]
        assert (row["sum_sq"], row["statistic"], row["p"]) == pytest.approx(
            (other["sum_sq"], other["F"], other["PR(>F)"])
        )


def test_robust_p_values_are_those_of_statsmodels_own_formula():
    rng = np.random.default_rng(2)
    a, b = rng.choice(list("xyz"), 40), rng.choice(list("uv"), 40)
    values = rng.normal(size=40) * np.where(a == "x", 3.0, 0.5) + (b == "v")
    design, _ = design_of([factor("a", a), factor("b", b)], 40)
    additive = fit(RHO, type(design)(40, design.factors, (("a",), ("b",))), values)
    model, _ = by_formula(values, "a + b", a=a, b=b)
    expected = anova_lm(model, typ=2, robust="hc3")["PR(>F)"]
    assert terms(additive)["a"]["p_robust"] == pytest.approx(expected["a"])
    assert terms(additive)["b"]["p_robust"] == pytest.approx(expected["b"])
    assert levels(additive)["a", "y"]["p_robust"] == pytest.approx(
        model.get_robustcov_results("HC3").pvalues[model.model.exog_names.index("a[T.y]")]
    )


@pytest.mark.parametrize("seed", range(20))
def test_every_coefficient_variance_and_robust_p_of_any_design_is_that_of_statsmodels(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 120))
    factors = [factor(name, rng.choice(list("uvwxyz")[: rng.integers(2, 7)], n).tolist()) for name in "abc"]
    design, _ = design_of(factors, n)
    values = rng.normal(size=n) * rng.uniform(0.2, 3.0, n)
    for term in design.terms:
        coded = design.coded([*design.without(term), term])
        ours, theirs = LeastSquares(coded, values), OLS(values, coded.matrix).fit()
        smaller = OLS(values, coded.matrix[:, : coded.places[term][0]]).fit()
        assert ours.coefficients == pytest.approx(theirs.params)
        assert ours.residuals == pytest.approx(theirs.resid)
        assert ours.explained(coded.places[term]) == pytest.approx(smaller.ssr - theirs.ssr)
        assert [ours.variance(place) for place in coded.places[term]] == pytest.approx(
            np.diag(theirs.normalized_cov_params)[coded.places[term]]
        )
        p, reason = ours.robust_p(coded.places[term])
        if theirs.get_influence().hat_matrix_diag.max() > 1 - 1e-9:
            assert (p, reason) == (None, "no robust p: a level or a combination was observed once")
        elif reason is None:
            chosen = np.eye(coded.matrix.shape[1])[coded.places[term]]
            assert p == pytest.approx(float(theirs.get_robustcov_results("HC3").f_test(chosen).pvalue), rel=1e-6)


def test_effects_and_intervals_of_an_additive_model_are_those_of_statsmodels():
    rng = np.random.default_rng(3)
    a = rng.choice(list("xyz"), 30)
    values = rng.normal(size=30) + (a == "z")
    model, _ = by_formula(values, "a", a=a)
    row = levels(fitted(values, a=a))["a", "z"]
    assert (row["effect"], row["low"], row["high"], row["p"]) == pytest.approx(
        (model.params["a[T.z]"], *model.conf_int().loc["a[T.z]"], model.pvalues["a[T.z]"])
    )
    assert (row["reference"], row["n"]) == ("x", list(a).count("z"))


def test_effects_on_a_logarithm_are_ratios():
    row = levels(fitted(np.log([2.0, 2.2, 1.8, 4.0, 4.4, 3.6]), ENERGY, a=list("xxxyyy")))["a", "y"]
    assert row["effect"] == pytest.approx(2.0)
    assert row["low"] < 2.0 < row["high"]
    assert row["low"] * row["high"] == pytest.approx(4.0)
    assert row["scale"] == "ratio"


def test_a_test_of_a_factor_with_two_levels_is_that_of_its_one_effect_under_an_interaction_too():
    a, b = crossed(2, 3, replicates=4)
    found = fitted(np.random.default_rng(4).normal(size=24), a=a, b=b)
    assert "a x b" in terms(found)
    assert levels(found)["a", "a1"]["p"] == pytest.approx(terms(found)["a"]["p"])
    assert levels(found)["a", "a1"]["statistic"] ** 2 == pytest.approx(terms(found)["a"]["statistic"])


def test_known_effects_lie_in_their_intervals_about_95_times_in_100():
    rng = np.random.default_rng(5)
    a, b = crossed(3, 2, replicates=3)
    truth = np.array([{"a0": 0.0, "a1": -0.9, "a2": 0.3}[level] for level in a]) + 0.5 * (np.array(b) == "b1")
    inside = []
    for _ in range(300):
        found = levels(fitted(truth + rng.normal(scale=0.2, size=18), a=a, b=b))
        inside += [found["a", "a1"]["low"] < -0.9 < found["a", "a1"]["high"]]
        inside += [found["b", "b1"]["low"] < 0.5 < found["b", "b1"]["high"]]
    assert 0.92 < np.mean(inside) < 0.98  # standard error 0.9 %


def test_without_any_effect_one_test_in_twenty_finds_one():
    rng = np.random.default_rng(6)
    a, b = crossed(3, 2, replicates=3)
    found = [term_rows(fitted(rng.normal(size=18), a=a, b=b)) for _ in range(400)]
    for number in range(3):
        assert 0.02 < np.mean([rows[number]["p"] < 0.05 for rows in found]) < 0.085  # standard error 1.1 %
    assert abs(np.mean([rows[0]["partial_omega_squared"] for rows in found])) < 0.02
    assert np.mean([rows[0]["partial_eta_squared"] for rows in found]) > 0.1  # what omega squared corrects


def test_without_an_effect_robust_tests_stay_honest_under_unequal_variances():
    rng = np.random.default_rng(7)
    values = np.array(["x"] * 6 + ["y"] * 24)
    scale = np.where(values == "x", 5.0, 1.0)
    found = [term_rows(fitted(scale * rng.normal(size=30), a=values))[0] for _ in range(400)]
    assert np.mean([row["p"] < 0.05 for row in found]) > 0.15
    assert np.mean([row["p_robust"] < 0.05 for row in found]) < 0.11


def test_without_residual_degrees_of_freedom_there_are_effects_but_no_p_values():
    found = fitted([1.0, 2.0, 4.0], a=list("xyz"))
    (row,) = term_rows(found)
    assert (row["df"], row["df_residual"], row["reason"]) == (2, 0, "no residual degrees of freedom")
    assert row.keys() & {"p", "p_robust", "statistic", "partial_eta_squared"} == set()
    effect = levels(found)["a", "z"]
    assert effect["effect"] == pytest.approx(3.0)
    assert effect.keys() & {"low", "high", "p"} == set()
    checked = {row["assumption"]: row for row in assumption_rows(found, list("123"), "nothing")}
    assert all("p" not in row for row in checked.values())
    assert "not tested" in checked["normal residuals"]["finding"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [([3.0] * 6, "all values are equal"), ([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], "no scatter around the effects")],
)
def test_without_scatter_there_are_no_p_values(values, reason):
    found = fitted(values, a=list("xxxyyy"))
    (row,) = term_rows(found)
    assert row["reason"] == reason
    assert "p" not in row
    assert all("p" not in row for row in level_rows(found))


def test_a_level_that_was_observed_once_has_no_robust_p_and_says_why():
    found = fitted([1.0, 1.1, 1.3, 1.2, 2.0], a=list("xxxxy"))
    (row,) = term_rows(found)
    assert row["p"] < 0.05
    assert (row["p_robust"], row["reason"]) == (None, "no robust p: a level or a combination was observed once")


def test_a_level_without_scatter_has_no_robust_p_and_says_why():
    values = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.1, 2.9, 3.2]
    (row,) = term_rows(fitted(values, a=list("xxxxyyyyzzzz")))
    assert row["p"] < 0.05
    assert (row["p_robust"], row["reason"]) == (None, "no robust p: a level has no scatter")


def test_a_ratio_near_one_is_not_rounded_to_one():
    row = {"term": "precision", "level": "bf16", "reference": "fp32", "effect": 1.0042, "low": 0.99871, "high": 1.12345}
    said = words(row, RESPONSES["energy"])
    assert said == "bf16 takes 1.004 times the joules per request of fp32 [0.9987, 1.12]"
