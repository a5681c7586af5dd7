"""What a ranking comes out as in each draw, and what all draws together say. Arrays are (configurations, draws)."""

import numpy as np
from numpy.typing import NDArray

from analysis.draws import Floats
from analysis.ranking import SAME_ENERGY, SAME_SCORE_DIGITS, Phi

Integers = NDArray[np.int64]


def efficiencies(energies: Floats, phi: Phi) -> Floats:
    """Phi over the configurations of each draw, as `analysis.ranking` defines it."""
    least, greatest = energies.min(axis=0), energies.max(axis=0)
    if phi == "ratio":
        return np.asarray(least / energies)
    span = greatest - least
    apart = span > SAME_ENERGY * greatest
    return np.where(apart, (greatest - energies) / np.where(apart, span, 1.0), 1.0)


def ranks(scores: Floats) -> Integers:
    """Rank of each configuration in each draw, from 1, the best; equal scores share one."""
    by_draw = -scores.T.round(SAME_SCORE_DIGITS)
    order = by_draw.argsort(axis=1, kind="stable")
    in_order = np.take_along_axis(by_draw, order, axis=1)
    first_of_equals = np.ones(by_draw.shape, dtype=bool)
    first_of_equals[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
    positions = np.where(first_of_equals, np.arange(by_draw.shape[1]), 0)
    ranked = np.empty(by_draw.shape, np.int64)
    np.put_along_axis(ranked, order, np.maximum.accumulate(positions, axis=1) + 1, axis=1)
    return np.ascontiguousarray(ranked.T)


def best_shares(ranked: Integers) -> Floats:
    """Share of the draws in which each is the best; those that are it together divide a draw among them."""
    best = ranked == 1
    return np.asarray((best / best.sum(axis=0)).mean(axis=1))


def interval(drawn: Floats | Integers, estimates: Floats | Integers, level: float) -> tuple[Floats, Floats]:
    """Percentiles between which a share `level` of each configuration's draws lies, and its estimate, which belongs in.

    Percentiles are values that were drawn: those of ranks are ranks.
    """
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=1, method="inverted_cdf")
    return np.minimum(low, estimates), np.maximum(high, estimates)
