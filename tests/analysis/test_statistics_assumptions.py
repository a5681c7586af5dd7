"""Assumptions of an analysis of variance: tested as scipy and statsmodels do, and told where they do not hold."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.outliers_influence import OLSInfluence

from analysis.statistics.assumptions import assumption_rows, influence
from tests.analysis.fitted import crossed, fitted


def checks(found):
    rows = assumption_rows(found, [f"s{i}" for i in range(found.design.observations)], "seeds share a machine")
    return {(row["assumption"], row.get("about")): row for row in rows}


def test_assumptions_hold_for_normal_scatter_and_are_tested_as_scipy_does():
    rng = np.random.default_rng(10)
    values = rng.normal(size=30)
    found = fitted(values, a=list("xyz") * 10)
    checked = checks(found)
    residuals = values - np.tile([values[i::3].mean() for i in range(3)], 10)
    assert checked["normal residuals", None]["p"] == pytest.approx(stats.shapiro(residuals).pvalue)
    assert checked["equal variances", "a"]["p"] == pytest.approx(
        stats.levene(values[0::3], values[1::3], values[2::3], center="median").pvalue
    )
    assert [row.get("holds") for row in checked.values()] == [True, True, True, True, None]
    assert checked["independence", None]["finding"] == "not tested: seeds share a machine"


def test_assumptions_that_do_not_hold_are_told():
    rng = np.random.default_rng(11)
    a = ["x"] * 20 + ["y"] * 20
    uneven = checks(fitted(np.where(np.array(a) == "y", 10.0, 1.0) * rng.normal(size=40), a=a))
    assert uneven["equal variances", "a"]["holds"] is False
    skewed = checks(fitted(rng.lognormal(sigma=2.0, size=40), a=a))
    assert skewed["normal residuals", None]["holds"] is False
    assert skewed["normal residuals", None]["finding"] == "residuals are not normal"


def test_normality_is_not_tested_beyond_what_its_test_is_made_for():
    values = np.random.default_rng(12).normal(size=5002)
    row = checks(fitted(values, a=["x", "y"] * 2501))["normal residuals", None]
    assert "p" not in row
    assert row["finding"] == "not tested: 5002 stages, and the test is made for 3 to 5000"


def test_scatter_is_not_compared_where_two_stages_per_level_make_it_equal_by_arithmetic():
    row = checks(fitted([1.0, 1.5, 2.0, 2.1, 3.0, 3.9], a=list("xxyyzz")))["equal variances", "a"]
    assert "p" not in row
    assert row["finding"] == "not tested: fewer than two levels with 3 stages"


def test_leverage_distances_and_outliers_are_those_of_statsmodels():
    rng = np.random.default_rng(13)
    a, b = rng.choice(list("xyz"), 25), rng.choice(list("uv"), 25)
    values = rng.normal(size=25)
    values[7] += 8.0
    found = fitted(values, a=a, b=b)
    other = OLSInfluence(found.whole)
    leverage, cook, outlying = influence(found)
    assert leverage == pytest.approx(other.hat_matrix_diag)
    assert cook == pytest.approx(other.cooks_distance[0])
    p = 2 * stats.t.sf(np.abs(other.resid_studentized_external), found.df_residual - 1)
    assert (outlying == (p * 25 < 0.05)).all()
    assert np.flatnonzero(outlying).tolist() == [7]
    row = checks(found)["no influential stage", None]
    assert row["holds"] is False
    assert "s7" in row["finding"]


def test_stages_that_the_model_passes_through_are_not_judged():
    row = checks(fitted([1.0, 1.1, 1.3, 1.2, 2.0], a=list("xxxxy")))["no influential stage", None]
    assert "1 not judged: the model passes through them" in row["finding"]


@pytest.mark.parametrize(
    ("kept", "balanced", "found"),
    [
        (range(12), True, "all 6 combinations of levels were observed, 2 times each"),
        (range(11), False, "all 6 combinations of levels were observed, 1 to 2 times each"),
        (range(10), False, "5 of 6 combinations of levels were observed, 2 times each"),
    ],
)
def test_an_unbalanced_design_is_told(kept, balanced, found):
    a, b = crossed(3, 2, replicates=2)
    values = np.random.default_rng(14).normal(size=12)
    row = checks(fitted(values[list(kept)], a=[a[i] for i in kept], b=[b[i] for i in kept]))["balanced design", None]
    assert row["holds"] is balanced
    assert row["finding"].startswith(found)
