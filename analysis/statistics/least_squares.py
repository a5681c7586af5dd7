"""Ordinary least squares on columns of which an orthonormal basis is known already, and the robust covariance HC3.

A library factors the columns of each model anew, most often by singular values. An analysis of variance fits dozens of
models whose columns were made orthonormal one after another when it was found out which of them are independent: with
X = QR, the coefficients are R^-1 Q'y, their covariance is s^2 R^-1 R^-T, the leverage of an observation is the squared
length of its row of Q, and columns that come last explain the squared length of their part of Q'y (Golub & Van Loan,
Matrix Computations, 5.3; Langsrud 2003, Statistics and Computing 13, 163-167).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np
from scipy import stats
from scipy.linalg import solve_triangular

from analysis.statistics.design import Coded
from analysis.statistics.factors import Columns

NOTHING: Final = 1e-9
"""Share of an observation that a model leaves free, below which it passes through it, whatever it is."""


class LeastSquares:
    """A model with its coefficients.

    Attributes:
        coefficients: one per column of the design matrix.
        residuals: one per observation.
    """

    def __init__(self, coded: Coded, values: Columns) -> None:
        self._orthonormal = coded.orthonormal
        self._effects = self._orthonormal.T @ values
        upper = self._orthonormal.T @ coded.matrix
        self._inverse = solve_triangular(upper, np.eye(len(upper)))
        self.coefficients = self._inverse @ self._effects
        self.residuals = values - self._orthonormal @ self._effects

    def explained(self, places: Sequence[int]) -> float:
        """Sum of squares of columns, adjusted for all columns before them."""
        return float(np.square(self._effects[list(places)]).sum())

    def variance(self, place: int) -> float:
        """Of a coefficient, as a multiple of that of the error."""
        return float(np.square(self._inverse[place]).sum())

    @cached_property
    def _robust(self) -> Columns | None:
        """Covariance of the coefficients by HC3; None where an observation is fitted whatever it is."""
        free = 1 - leverage(self._orthonormal)
        if free.min() <= NOTHING:
            return None
        scattered = (self._orthonormal * (self.residuals / free)[:, None]) @ self._inverse.T
        covariance: Columns = scattered.T @ scattered
        return covariance

    def robust_p(self, places: Sequence[int]) -> tuple[float | None, str | None]:
        """P of the Wald F test that coefficients are 0, with the covariance HC3, or why there is none.

        (MacKinnon & White 1985, Journal of Econometrics 29, 305-325.) The error is that of this model.
        """
        if self._robust is None:
            return None, "no robust p: a level or a combination was observed once"
        covariance, chosen = self._robust[np.ix_(places, places)], self.coefficients[list(places)]
        if np.linalg.matrix_rank(covariance, hermitian=True) < len(places):
            return None, "no robust p: a level has no scatter"
        statistic = chosen @ np.linalg.solve(covariance, chosen) / len(places)
        return float(stats.f.sf(statistic, len(places), len(self.residuals) - len(self.coefficients))), None


def leverage(orthonormal: Columns) -> Columns:
    """Of each observation, in a model whose columns span what these span."""
    found: Columns = np.square(orthonormal).sum(axis=1)
    return found
