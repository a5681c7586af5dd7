"""The ranking at every weight at once.

R(w) = w * phi + (1 - w) * rho is a straight line in w, from rho at 0 to phi at 1. Two configurations change places
where their lines cross, at

    w = (rho_1 - rho_2) / ((rho_1 - rho_2) + (phi_2 - phi_1)),

and the best at each w is the upper envelope of the lines. All of it is algebra: no grid of weights is tried, so that no
change of order is missed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from analysis.ranking import SAME_SCORE_DIGITS

_SAME_WEIGHT: Final = 1e-9
"""Lines that cross within this, as their rounding leaves them, meet in one point."""

_Line = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Weights:
    """Scores and order over all weights from 0 (quality alone) to 1 (energy alone).

    Attributes:
        lines: configuration; its score `at_0`, which is rho, and `at_1`, which is phi. Between them it is straight.
        winners: who is best between two weights: from_weight, to_weight, configuration. At a border both sides are;
            configurations that have the same line share a stretch, with a row each.
        crossings: where the order changes: weight; `first`, which is ahead below it; `second`, which is ahead above
            it; `rank`, the place for which they change. Where several lines meet in one point, each pair has a row.
    """

    lines: pl.DataFrame
    winners: pl.DataFrame
    crossings: pl.DataFrame


def over_weights(rows: pl.DataFrame, places: int | None = None) -> Weights:
    """Who is best at which weight, and where the order changes; exact, for minmax and ratio alike.

    Args:
        rows: of a collected `analysis.ranking.ranking`: configuration, rho, phi. Its own weight plays no part.
        places: only changes among so many first places are given; default: all, of which n configurations have up to
            n (n - 1) / 2.
    """
    rho, phi = (rows[end].cast(pl.Float64).round(SAME_SCORE_DIGITS).to_numpy() for end in ("rho", "phi"))
    name = rows["configuration"]
    winners = [(start, end, name[best]) for start, end, best in _winners(rho, phi)]
    return Weights(
        lines=rows.select("configuration", at_0="rho", at_1="phi"),
        winners=pl.DataFrame(
            winners, {"from_weight": pl.Float64, "to_weight": pl.Float64, "configuration": pl.String}, orient="row"
        ),
        crossings=_crossings(name, rho, phi, places or len(rho)),
    )


def _crossing(rho: _Line, phi: _Line, one: int, others: Any) -> _Line:
    """Weights at which line `one` meets other lines, none of which is parallel to it."""
    ahead_at_0, behind_at_1 = rho[one] - rho[others], phi[others] - phi[one]
    found: _Line = np.round(ahead_at_0 / (ahead_at_0 + behind_at_1), SAME_SCORE_DIGITS)
    return found


def _winners(rho: _Line, phi: _Line) -> Iterator[tuple[float, float, int]]:
    """The upper envelope, walked from w = 0: who overtakes the best one next, the steepest of those that do at once."""
    if not len(rho):
        return
    at, best = 0.0, int(np.lexsort((phi, rho))[-1])
    while True:
        later = np.flatnonzero(phi > phi[best])
        meets = _crossing(rho, phi, best, later)
        steepest = np.lexsort((-phi[later], meets))
        end = float(meets[steepest[0]]) if len(later) else 1.0
        if end - at > _SAME_WEIGHT:
            same = np.flatnonzero((rho == rho[best]) & (phi == phi[best]))
            yield from ((at, end, int(line)) for line in same)
            at = end
        if not len(later):
            return
        best = int(later[steepest[0]])


def _crossings(name: pl.Series, rho: _Line, phi: _Line, places: int) -> pl.DataFrame:
    """All pairs that change places for one of the first.

    A line's rank at a crossing is its rank at w = 0, plus the lines that have overtaken it before, less those that it
    has overtaken till then.
    """
    found: list[tuple[Any, ...]] = [(np.empty(0, int), np.empty(0, int), np.empty(0), np.empty(0, int))]
    for line in range(len(rho)):
        start = 1 + np.count_nonzero((rho > rho[line]) | ((rho == rho[line]) & (phi > phi[line])))
        overtaking = np.flatnonzero((rho < rho[line]) & (phi > phi[line]))
        overtaken = np.flatnonzero((rho > rho[line]) & (phi < phi[line]))
        lost, won = _crossing(rho, phi, line, overtaking), _crossing(rho, phi, line, overtaken)
        before = np.searchsorted(np.sort(lost), lost - _SAME_WEIGHT, "left")
        rank = start + before - np.searchsorted(np.sort(won), lost + _SAME_WEIGHT, "right")
        near = rank <= places
        found.append((np.full(near.sum(), line), overtaking[near], lost[near], rank[near]))
    first, second, weight, rank = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return pl.DataFrame(
        {"weight": weight, "first": name.gather(first), "second": name.gather(second), "rank": rank},
        {"weight": pl.Float64, "first": pl.String, "second": pl.String, "rank": pl.Int64},
    ).sort("weight", "rank", maintain_order=True)
