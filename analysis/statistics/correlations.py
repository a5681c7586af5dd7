"""Spearman's rank correlations between quantities, over configurations."""

from collections.abc import Iterator
from functools import cache
from itertools import combinations, permutations
from math import factorial
from typing import Any, Final

import numpy as np
import polars as pl
from scipy import stats

from analysis.statistics.factors import Columns
from analysis.statistics.holm import correct

QUANTITIES: Final = [
    *("energy_j_per_request", "rho", "seconds_per_request", "mean_power_w"),
    *("prompt_tokens_per_request", "new_tokens_per_request", "sparsity_achieved", "weight_bytes"),
    *("batch_size", "sequence_length"),
]

SCHEMA: Final[dict[str, type[pl.DataType]]] = {
    **dict.fromkeys(("pool", "first", "second"), pl.String),
    "n": pl.Int64,
    **dict.fromkeys(("rho", "low", "high", "p", "p_holm"), pl.Float64),
    "reason": pl.String,
}

_FEWEST: Final = 4
"""Configurations for a correlation: of three, even perfect order comes by chance one time in three."""

_EXACT: Final = 8
"""Up to so many configurations p counts all orders (40,320); beyond, it takes Student's t."""


def correlations(rows: pl.DataFrame, level: float) -> tuple[pl.DataFrame, list[str]]:
    """Of every pair of quantities, within each pool; p-values corrected by Holm over all pairs of all pools.

    A configuration counts once, with the mean of its seeds: seeds repeat one configuration, and would make few
    configurations look like many. Intervals are those of Fisher's z with the variance of Bonett & Wright (2000,
    Psychometrika 65, 23-28), each one by one.

    Args:
        rows: observations of inference with `QUANTITIES`, `configuration` and `pool`.
        level: of the intervals.

    Returns:
        A frame with `SCHEMA`; which quantities were left out, and why.
    """
    found: list[dict[str, Any]] = []
    notes: list[str] = []
    pools = rows.filter(pl.col("pool").is_not_null())
    for (pool,), members in pools.partition_by("pool", as_dict=True).items():
        means = members.group_by("configuration", maintain_order=True).agg(pl.mean(*QUANTITIES))
        known = {name: means[name].drop_nulls().drop_nans() for name in QUANTITIES}
        varied = [name for name in QUANTITIES if len(_distinct(known[name])) > 1]
        if fixed := ", ".join(f"{name} ({_why(known[name])})" for name in QUANTITIES if name not in varied):
            notes.append(f"correlations of {pool}: left out, as they do not vary: {fixed}")
        found += [{"pool": pool, **pair} for pair in _pairs(means, varied, level)]
    correct(found)
    return pl.DataFrame(found, SCHEMA), notes


def _distinct(known: pl.Series) -> pl.Series:
    """Values that differ by more than rounding."""
    return known.round_sig_figs(9).unique()


def _why(known: pl.Series) -> str:
    return "unknown" if known.is_empty() else f"{known[0]:g} everywhere"


def _pairs(means: pl.DataFrame, names: list[str], level: float) -> Iterator[dict[str, Any]]:
    for first, second in combinations(names, 2):
        both = means.select(first, second).fill_nan(None).drop_nulls()
        yield {"first": first, "second": second, "n": both.height} | _spearman(both[first], both[second], level)


def _spearman(first: pl.Series, second: pl.Series, level: float) -> dict[str, Any]:
    count = len(first)
    if count < _FEWEST:
        return {"reason": f"known together of {count} configurations: too few"}
    if min(len(_distinct(first)), len(_distinct(second))) < 2:  # noqa: PLR2004 - what varies has two values
        return {"reason": "one of them does not vary where both are known"}
    x, y = (stats.rankdata(part.round_sig_figs(9)) for part in (first, second))
    rho = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    row: dict[str, Any] = {"rho": rho, "p": _p(x, y, rho)}
    if abs(rho) > 1 - 1e-12:
        return row | {"reason": "no interval: the order is the same, or reversed, throughout"}
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt((1 + rho**2 / 2) / (count - 3))
    return row | {"low": float(np.tanh(np.arctanh(rho) - half)), "high": float(np.tanh(np.arctanh(rho) + half))}


def _p(x: Columns, y: Columns, rho: float) -> float:
    """Two-sided, of no correlation; never below the share that two of all orders have."""
    count = len(x)
    if count <= _EXACT:
        centred = y - y.mean()
        all_orders = (x - x.mean())[_orders(count)] @ centred
        return float(np.mean(np.abs(all_orders) >= abs((x - x.mean()) @ centred) - 1e-9))
    odd = max(1 - rho**2, 1e-300)
    p = float(2 * stats.t.sf(abs(rho) * np.sqrt((count - 2) / odd), count - 2))
    return max(p, 2 / factorial(min(count, 100)))


@cache
def _orders(count: int) -> Any:
    return np.array(list(permutations(range(count))))
