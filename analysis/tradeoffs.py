"""Trade-offs among ranked configurations that no weight decides: Pareto front, break-even, who depends on whom."""

from typing import Any, Final

import numpy as np
import polars as pl

from analysis.ranking import SAME_ENERGY, SAME_SCORE_DIGITS, Phi

_FEWEST: Final = 1.0
"""Requests: whoever serves none needs no model."""


def pareto(rows: pl.DataFrame) -> pl.DataFrame:
    """Which configurations no other is better than in both quality and energy.

    One dominates another if it has at least its rho for at most its energy, and is better in one of the two. Equal
    ones do not dominate each other.

    Args:
        rows: of a collected `analysis.ranking.ranking`: configuration, rho, ranked_by.

    Returns:
        configuration; on_front; dominated_by, the first of the rows that dominates it and is itself on the front, else
        null.
    """
    rho = rows["rho"].round(SAME_SCORE_DIGITS).to_numpy()
    energy = _alike(rows["ranked_by"].to_numpy())
    front = np.flatnonzero(_on_front(rho, energy))
    dominating: list[str | None] = []
    for quality, joules in zip(rho, energy, strict=True):
        as_good = (rho[front] >= quality) & (energy[front] <= joules)
        better = as_good & ((rho[front] > quality) | (energy[front] < joules))
        dominating.append(rows["configuration"][int(front[better.argmax()])] if better.any() else None)
    by = pl.Series("dominated_by", dominating, pl.String)
    return rows.select("configuration").with_columns(by.is_null().alias("on_front"), by)


def _on_front(rho: Any, energy: Any) -> Any:
    """On it is what is better than all that take less energy, and as good as any that takes as much."""
    order = np.lexsort((-rho, energy))
    best_so_far = np.maximum.accumulate(rho[order])
    first_of_energy = np.searchsorted(energy[order], energy[order], "left")
    best_of_less = np.where(first_of_energy > 0, best_so_far[first_of_energy - 1], -np.inf)
    front = np.empty(len(rho), bool)
    front[order] = (rho[order] > best_of_less) & (rho[order] == rho[order][first_of_energy])
    return front


def break_even(rows: pl.DataFrame) -> pl.DataFrame:
    """At how many requests two configurations have cost the same joules: when has a fine-tuning paid for itself?

    With F the joules of fine-tuning and e those of inference per request, F_1 / N + e_1 = F_2 / N + e_2 at

        N = (F_2 - F_1) / (e_1 - e_2).

    Args:
        rows: of a collected `analysis.ranking.ranking`: configuration, finetune_energy_j,
            inference_energy_j_per_request. Whatever it was ranked by, joules are compared.

    Returns:
        Every pair once, in the order of the rows: first, second; requests, the number from which on the other is the
        cheaper one, null where that never happens at any number above 1; cheaper_below and cheaper_above, the
        configuration that takes fewer joules for fewer and for more requests: the same where one always does, null
        where both always take the same.
    """
    names = rows["configuration"]
    first, second = np.triu_indices(len(names), 1)
    saved_at_once = -_more(rows["finetune_energy_j"].to_numpy(), first, second)
    saved_later = -_more(rows["inference_energy_j_per_request"].to_numpy(), first, second)
    crosses = saved_at_once * saved_later < 0
    requests = np.divide(-saved_at_once, saved_later, out=np.full(len(first), np.nan), where=crosses)
    requests[~(requests > _FEWEST)] = np.nan
    # With many requests it is theirs that decide, unless they are equal.
    above = np.where(saved_later != 0, saved_later, saved_at_once)
    below = np.where(np.isnan(requests), above, saved_at_once)

    def cheaper(second_saves: Any) -> pl.Series:
        index = np.where(second_saves > 0, second, first)
        return names.gather(index).zip_with(pl.Series(second_saves != 0), pl.Series([None], dtype=pl.String))

    return pl.DataFrame(
        {
            "first": names.gather(first),
            "second": names.gather(second),
            "requests": pl.Series(requests, dtype=pl.Float64).fill_nan(None),
            "cheaper_below": cheaper(below),
            "cheaper_above": cheaper(above),
        }
    )


def _alike(energy: Any) -> Any:
    """The values, with those that agree to `SAME_ENERGY` with the next smaller one made equal to it."""
    order = np.argsort(energy)
    ascending = energy[order]
    starts = np.append(True, np.diff(ascending) > SAME_ENERGY * ascending[1:])[: len(energy)]
    alike = np.empty(len(energy))
    alike[order] = ascending[starts][np.cumsum(starts) - 1]
    return alike


def _more(energy_j: Any, first: Any, second: Any) -> Any:
    """What the second of each pair takes beyond the first; 0 where they are equal."""
    more = energy_j[second] - energy_j[first]
    return np.where(np.abs(more) <= SAME_ENERGY * np.maximum(energy_j[first], energy_j[second]), 0.0, more)


def leave_one_out(rows: pl.DataFrame, weight: float, phi: Phi) -> pl.DataFrame:
    """Whether the order of the others depends on a configuration's being there.

    Under minmax it can: who takes the most or the least energy sets the scale for all. Under ratio only who takes the
    least does. Taking out any other changes no score.

    Args:
        rows: of a collected `analysis.ranking.ranking`: configuration, rho, ranked_by.
        weight: w, from 0 to 1.
        phi: how energy is normalised.

    Returns:
        A row per configuration, in the order of the rows: left_out; best_before, the best of the others while it is
        there; best_after, their best without it; order_changed, whether any two of the others change places, into a
        tie or out of one included. The bests are null for a configuration that is alone.
    """
    names, rho, energy = rows["configuration"], rows["rho"].to_numpy(), rows["ranked_by"].to_numpy()
    whole = _scores(rho, energy, weight, phi)
    found: list[tuple[str, str | None, str | None, bool]] = []
    for index in range(len(names)):
        others = np.delete(np.arange(len(names)), index)
        held = after = whole[others]
        if energy[index] in {energy.min(), energy.max()}:
            after = _scores(rho[others], energy[others], weight, phi)
        bests = [names[int(others[scores.argmax()])] for scores in (held, after)] if len(others) else [None, None]
        found.append((names[index], *bests, after is not held and bool((_places(held) != _places(after)).any())))
    columns = {"left_out": pl.String, "best_before": pl.String, "best_after": pl.String, "order_changed": pl.Boolean}
    return pl.DataFrame(found, columns, orient="row")


def _scores(rho: Any, energy: Any, weight: float, phi: Phi) -> Any:
    """As `analysis.ranking.ranking` computes them, rounded to what counts."""
    lowest, highest = energy.min(initial=np.inf), energy.max(initial=0)
    if phi == "ratio":
        efficiency = lowest / energy
    elif highest - lowest > SAME_ENERGY * highest:
        efficiency = (highest - energy) / (highest - lowest)
    else:
        efficiency = np.ones(len(energy))
    return np.round(weight * efficiency + (1 - weight) * rho, SAME_SCORE_DIGITS)


def _places(scores: Any) -> Any:
    return np.unique(scores, return_inverse=True)[1]
