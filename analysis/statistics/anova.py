"""Analysis of variance of one response: tests of terms, and effects of levels against their reference.

Sums of squares are of type II: a term is adjusted for all terms that do not contain it (Langsrud 2003, Statistics and
Computing 13, 163-167), which needs no balanced design. The error is that of the whole model. Ordinary least squares
and covariances are those of statsmodels.

Effect sizes, with SS and df of a term, SSE and MSE of the error, and N observations:

    partial eta squared   = SS / (SS + SSE)
    partial omega squared = (SS - df MSE) / (SS + (N - df) MSE)

(Cohen 1973, Educational and Psychological Measurement 33, 107-112; Olejnik & Algina 2003, Psychological Methods 8,
434-447.) The first is the share of the scatter that the term explains in this sample, and grows with the number of
levels by chance alone; the second corrects for that, and may fall below 0 where there is no effect.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from scipy import stats
from statsmodels.regression.linear_model import OLS

from analysis.statistics.design import Design, Term
from analysis.statistics.factors import Columns
from analysis.statistics.responses import Response

LEVEL: Final = 0.95
"""Of intervals; each is one by one, not corrected for how many there are."""

_ROUNDING: Final = 1e-10
"""Share of the largest value below which what is left of the values is rounding."""

_WHOLE: Final = 1 - 1e-9
"""Leverage from which on a model passes through an observation, which then tells nothing of its own scatter."""


@dataclass(frozen=True)
class Fit:
    """A response with its design, and the whole model fitted.

    Attributes:
        values: as they are analysed.
        exact: why no scatter is there to test against; None if there is.
    """

    response: Response
    design: Design
    values: Columns
    whole: Any
    exact: str | None

    @property
    def df_residual(self) -> int:
        """Residual degrees of freedom of the whole model."""
        return int(self.whole.df_resid)

    @property
    def error(self) -> float | None:
        """Mean square of the error; None where there is none."""
        return None if self.exact else float(self.whole.mse_resid)


def fit(response: Response, design: Design, values: Columns) -> Fit:
    """Fit the whole model to values as they are analysed."""
    whole = OLS(values, design.matrix(design.terms)[0]).fit()
    rounding = _ROUNDING * np.abs(values).max()
    exact = None
    if np.ptp(values) <= rounding:
        exact = "all values are equal"
    elif whole.df_resid < 1:
        exact = "no residual degrees of freedom"
    elif np.abs(whole.resid).max() <= rounding:
        exact = "no scatter around the effects"
    return Fit(response, design, values, whole, exact)


def term_rows(fitted: Fit) -> list[dict[str, Any]]:
    """One row per term, with its type II test; without p-values and with a reason where there is no error."""
    return [_term_row(fitted, term) for term in fitted.design.terms]


def _term_row(fitted: Fit, term: Term) -> dict[str, Any]:
    design, error = fitted.design, fitted.error
    without = design.without(term)
    smaller = OLS(fitted.values, design.matrix(without)[0]).fit()
    matrix, places, _ = design.matrix([*without, term])
    larger = OLS(fitted.values, matrix).fit()
    df, squares = len(places[term]), max(float(smaller.ssr - larger.ssr), 0.0)
    row = {"term": " x ".join(term), "df": df, "df_residual": fitted.df_residual, "sum_sq": squares}
    row |= {"n": design.observations, "reason": fitted.exact}
    if error is None:
        return row
    value = squares / df / error
    robust_p, robust_reason = _robust_p(larger, places[term])
    return row | {
        "statistic": value,
        "p": float(stats.f.sf(value, df, fitted.df_residual)),
        "p_robust": robust_p,
        "partial_eta_squared": squares / (squares + error * fitted.df_residual),
        "partial_omega_squared": (squares - df * error) / (squares + (design.observations - df) * error),
        "reason": robust_reason,
    }


def level_rows(fitted: Fit) -> list[dict[str, Any]]:
    """One row per level of each factor but its reference: the effect with its interval, adjusted as its factor's test.

    Where a factor takes part in an interaction, an effect is the mean one over what it was combined with.
    """
    return [row for (name, *others) in fitted.design.terms if not others for row in _levels_of(fitted, name)]


def _levels_of(fitted: Fit, name: str) -> list[dict[str, Any]]:
    design, factor, term = fitted.design, fitted.design.factors[name], (name,)
    terms = [*design.without(term), term]
    matrix, places, kept = design.matrix(terms)
    model = OLS(fitted.values, matrix).fit()
    distinct = all(len(kept[other]) == design.columns(other).shape[1] for other in terms)
    place_of = dict(zip(kept[term], places[term], strict=True))
    rows = []
    for number, level in enumerate(factor.levels[1:]):
        row = {"term": name, "level": level, "reference": factor.reference, "n": factor.values.count(level)}
        if distinct or (number in place_of and design.can_estimate(name, number, terms)):
            row |= _effect(fitted, model, place_of[number])
        else:
            row |= {"reason": "cannot be told apart from the effects of other factors in this design"}
        rows.append(row | {"scale": fitted.response.scale})
    return rows


def _effect(fitted: Fit, model: Any, place: int) -> dict[str, Any]:
    estimate, told = float(model.params[place]), fitted.response.told
    if fitted.error is None:
        return {"effect": told(estimate), "reason": fitted.exact}
    standard_error = float(np.sqrt(fitted.error * model.normalized_cov_params[place, place]))
    half = float(stats.t.ppf((1 + LEVEL) / 2, fitted.df_residual)) * standard_error
    robust_p, robust_reason = _robust_p(model, [place])
    return {
        "effect": told(estimate),
        "low": told(estimate - half),
        "high": told(estimate + half),
        "df": 1,
        "df_residual": fitted.df_residual,
        "statistic": estimate / standard_error,
        "p": float(2 * stats.t.sf(abs(estimate) / standard_error, fitted.df_residual)),
        "p_robust": robust_p,
        "reason": robust_reason,
    }


def _robust_p(model: Any, places: list[int]) -> tuple[float | None, str | None]:
    """Wald F test that coefficients are 0, with the covariance HC3 (MacKinnon & White 1985), or why there is none.

    The error is that of the model that holds the term and what it is adjusted for: an interaction that the term is
    part of counts as scatter, and p is rather too large than too small.
    """
    robust = _robust(model)
    if robust is None:
        return None, "no robust p: a level or a combination was observed once"
    covariance = robust.cov_params()[np.ix_(places, places)]
    if np.linalg.matrix_rank(covariance, hermitian=True) < len(places):
        return None, "no robust p: a level has no scatter"
    chosen = np.eye(model.model.exog.shape[1])[places]
    return float(robust.f_test(chosen).pvalue), None


@lru_cache(maxsize=1)  # the effects of a factor are told one after the other
def _robust(model: Any) -> Any:
    """The model with the covariance HC3; None where an observation is fitted whatever it is."""
    leverage = np.square(np.linalg.qr(model.model.exog)[0]).sum(axis=1)
    return None if leverage.max() >= _WHOLE else model.get_robustcov_results("HC3")
