"""Analysis of variance of one response: tests of terms, and effects of levels against their reference.

Sums of squares are of type II: a term is adjusted for all terms that do not contain it (Langsrud 2003, Statistics and
Computing 13, 163-167), which needs no balanced design. The error is that of the whole model, which statsmodels fits.
The robust p is that of the model that holds the term and what it is adjusted for: an interaction that the term is part
of counts as scatter there, and p is rather too large than too small.

Effect sizes, with SS and df of a term, SSE and MSE of the error, and N observations:

    partial eta squared   = SS / (SS + SSE)
    partial omega squared = (SS - df MSE) / (SS + (N - df) MSE)

(Cohen 1973, Educational and Psychological Measurement 33, 107-112; Olejnik & Algina 2003, Psychological Methods 8,
434-447.) The first is the share of the scatter that the term explains in this sample, and grows with the number of
levels by chance alone; the second corrects for that, and may fall below 0 where there is no effect.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import stats
from statsmodels.regression.linear_model import OLS

from analysis.statistics.design import Design, Term
from analysis.statistics.factors import Columns
from analysis.statistics.least_squares import LeastSquares, leverage
from analysis.statistics.responses import Response

LEVEL: Final = 0.95
"""Of intervals; each is one by one, not corrected for how many there are."""

_ROUNDING: Final = 1e-10
"""Share of the largest value below which what is left of the values is rounding."""

_ALIASED: Final = "cannot be told apart from the effects of other factors in this design"


@dataclass(frozen=True)
class Fit:
    """A response with its design, and the whole model fitted.

    Attributes:
        values: as they are analysed.
        leverage: of each observation in the whole model.
        exact: why no scatter is there to test against; None if there is.
    """

    response: Response
    design: Design
    values: Columns
    whole: Any
    leverage: Columns
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
    coded = design.coded(design.terms)
    whole = OLS(values, coded.matrix).fit()
    rounding = _ROUNDING * np.abs(values).max()
    exact = None
    if np.ptp(values) <= rounding:
        exact = "all values are equal"
    elif whole.df_resid < 1:
        exact = "no residual degrees of freedom"
    elif np.abs(whole.resid).max() <= rounding:
        exact = "no scatter around the effects"
    return Fit(response, design, values, whole, leverage(coded.orthonormal), exact)


def rows_of(fitted: Fit) -> list[dict[str, Any]]:
    """One row per term, with its test; then one per level of each factor but its reference, with its effect.

    An effect is adjusted as its factor's test is. Where a factor takes part in an interaction, an effect is the mean
    one over what it was combined with.
    """
    tested = [_Tested(fitted, term) for term in fitted.design.terms]
    return [*(each.row() for each in tested), *(row for each in tested for row in each.level_rows())]


class _Tested:
    """A term, and the model that holds it last, after all that it is adjusted for."""

    def __init__(self, fitted: Fit, term: Term) -> None:
        self._fitted, self._term = fitted, term
        self._terms = [*fitted.design.without(term), term]
        self._coded = fitted.design.coded(self._terms)
        self._places = self._coded.places[term]
        self._model = LeastSquares(self._coded, fitted.values)

    def row(self) -> dict[str, Any]:
        """The type II test; without p-values and with a reason where there is no error."""
        fitted, n = self._fitted, self._fitted.design.observations
        df, squares = len(self._places), self._model.explained(self._places)
        row = {"term": " x ".join(self._term), "df": df, "df_residual": fitted.df_residual, "sum_sq": squares}
        row |= {"n": n, "reason": fitted.exact}
        if (error := fitted.error) is None:
            return row
        if not df:
            return row | {"reason": _ALIASED}
        value = squares / df / error
        robust_p, robust_reason = self._model.robust_p(self._places)
        return row | {
            "statistic": value,
            "p": float(stats.f.sf(value, df, fitted.df_residual)),
            "p_robust": robust_p,
            "partial_eta_squared": squares / (squares + error * fitted.df_residual),
            "partial_omega_squared": (squares - df * error) / (squares + (n - df) * error),
            "reason": robust_reason,
        }

    def level_rows(self) -> list[dict[str, Any]]:
        """Effects of a factor's levels; none of an interaction."""
        if len(self._term) > 1:
            return []
        design, kept, (name,) = self._fitted.design, self._coded.kept, self._term
        factor = design.factors[name]
        distinct = all(len(kept[other]) == design.columns(other).shape[1] for other in self._terms)
        place_of = dict(zip(kept[self._term], self._places, strict=True))
        rows = []
        for number, level in enumerate(factor.levels[1:]):
            row = {"term": name, "level": level, "reference": factor.reference, "n": factor.values.count(level)}
            if distinct or (number in place_of and design.can_estimate(name, number, self._terms)):
                row |= self._effect(place_of[number])
            else:
                row |= {"reason": _ALIASED}
            rows.append(row | {"scale": self._fitted.response.scale})
        return rows

    def _effect(self, place: int) -> dict[str, Any]:
        fitted, told = self._fitted, self._fitted.response.told
        estimate = float(self._model.coefficients[place])
        if fitted.error is None:
            return {"effect": told(estimate), "reason": fitted.exact}
        standard_error = float(np.sqrt(fitted.error * self._model.variance(place)))
        half = float(stats.t.ppf((1 + LEVEL) / 2, fitted.df_residual)) * standard_error
        robust_p, robust_reason = self._model.robust_p([place])
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
