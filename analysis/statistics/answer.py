"""What drives energy and quality, of a results folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from analysis.extra import require_report_extra
from analysis.load import Results
from analysis.statistics.holm import correct
from analysis.statistics.responses import RESPONSES, Response
from energyaware.errors import InputError

EFFECTS: Final[dict[str, type[pl.DataType]]] = {
    **dict.fromkeys(("response", "pool", "term", "level", "reference"), pl.String),
    **dict.fromkeys(("effect", "low", "high"), pl.Float64),
    "scale": pl.String,
    "n": pl.Int64,
    "statistic": pl.Float64,
    **dict.fromkeys(("df", "df_residual"), pl.Int64),
    **dict.fromkeys(("sum_sq", "partial_eta_squared", "partial_omega_squared"), pl.Float64),
    **dict.fromkeys(("p", "p_holm", "p_robust", "p_robust_holm"), pl.Float64),
    **dict.fromkeys(("words", "reason"), pl.String),
}

ASSUMPTIONS: Final[dict[str, type[pl.DataType]]] = {
    **dict.fromkeys(("response", "pool", "assumption", "test", "about"), pl.String),
    **dict.fromkeys(("statistic", "p"), pl.Float64),
    "holds": pl.Boolean,
    "finding": pl.String,
}

_POOLED: Final = "all"


@dataclass(frozen=True)
class Statistics:
    """What drives the responses, and how far that can be believed.

    Attributes:
        effects: of each response and pool (joules of one origin: measured and estimated ones are never mixed)
            rows of tests of terms (`level` is null: F as `statistic`, with effect sizes) and rows of levels (t as
            `statistic`; `effect` against the `reference` with its 95 % interval `low` to `high`, a ratio or a
            difference as `scale` says, and in `words`). `p_holm` is corrected over all tests of the response;
            `p_robust` is that of the covariance HC3. `n`: stages. `reason`: why something is null.
        correlations: Spearman's rank correlations between quantities, over configurations.
        assumptions: per response and pool, what was tested, whether it `holds`, and what was found.
        notes: what to know before believing them, one line each.
    """

    effects: pl.DataFrame
    correlations: pl.DataFrame
    assumptions: pl.DataFrame
    notes: list[str]


def statistics(results: Results, responses: Sequence[str] = tuple(RESPONSES), *, asked_only: bool = True) -> Statistics:
    """Look for what drives energy and quality.

    Args:
        results: a loaded results folder.
        responses: of `RESPONSES`: energy, tuning, quality, seconds.
        asked_only: whether only stages that the plan asks for count; else all that are finished do.

    Raises:
        InputError: there is no such response, or a library that this takes is not installed.
    """
    require_report_extra("statistics", ["scipy", "statsmodels"])
    if unknown := [name for name in responses if name not in RESPONSES]:
        raise InputError("statistics", "response", f"{unknown[0]!r} is not allowed: one of {', '.join(RESPONSES)}")
    responses = list(dict.fromkeys(responses))
    from analysis.statistics.anova import LEVEL
    from analysis.statistics.correlations import correlations
    from analysis.statistics.observations import FACTOR, finetunings, inferences
    from analysis.statistics.telling import interactions

    stages = {
        "inference": inferences(results, asked_only=asked_only),
        "finetune": finetunings(results, asked_only=asked_only),
    }
    effects: list[dict[str, Any]] = []
    assumptions: list[dict[str, Any]] = []
    notes: list[str] = list(results.problems)
    for response in (RESPONSES[name] for name in responses):
        rows = _usable(stages[response.kind], response, notes)
        family: list[dict[str, Any]] = []
        for pool, members in _pools(rows, response, notes):
            found = _analysed(members, response, pool, notes)
            family += found[0]
            assumptions += found[1]
        correct(family)
        correct(family, "p_robust")
        effects += family
        notes += interactions(family, response)
    device = pl.col(f"{FACTOR}device").fill_null("an unknown device")
    origin = pl.format("{} on {}", pl.col("pool").fill_null("unknown"), device)
    correlated, left_out = correlations(stages["inference"].with_columns(pool=origin), LEVEL)
    return Statistics(
        pl.DataFrame(effects, EFFECTS), correlated, pl.DataFrame(assumptions, ASSUMPTIONS), [*notes, *left_out]
    )


def _usable(rows: pl.DataFrame, response: Response, notes: list[str]) -> pl.DataFrame:
    """Observations that tell something of a response; what is left out is counted in the notes."""
    simulated = pl.col("simulated") if response.of_kernels else pl.lit(value=False)
    why = (
        pl.when(simulated)
        .then(pl.lit("simulated pruning, which runs on dense kernels and can save nothing"))
        .when("unreadable")
        .then(pl.lit("settings cannot be read"))
        .otherwise(f"{response.name} fault")
    )
    judged = rows.with_columns(left_out=why)
    for reason, count in judged["left_out"].drop_nulls().value_counts(sort=True, name="n").sort("left_out").iter_rows():
        notes.append(f"{response.name}: {_stages(count)} left out: {reason}")
    return judged.filter(pl.col("left_out").is_null())


def _pools(rows: pl.DataFrame, response: Response, notes: list[str]) -> Iterator[tuple[str, pl.DataFrame]]:
    """Joules of one origin at a time."""
    if not response.of_meters:
        yield _POOLED, rows
        return
    pools = rows.with_columns(pl.col("pool").fill_null("unknown")).partition_by("pool", as_dict=True)
    if not pools:
        yield _POOLED, rows
    if len(pools) > 1:
        counted = ", ".join(f"{pool} ({_stages(members.height)})" for (pool,), members in sorted(pools.items()))
        notes.append(f"{response.name}: joules of several origins are analysed apart, never together: {counted}")
    for (pool,), members in sorted(pools.items()):
        yield str(pool), members


def _analysed(
    rows: pl.DataFrame, response: Response, pool: str, notes: list[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of effects and of assumptions, of one response in one pool."""
    import numpy as np

    from analysis.statistics.anova import fit, rows_of
    from analysis.statistics.assumptions import assumption_rows
    from analysis.statistics.design import design_of
    from analysis.statistics.factors import constant, factors_of
    from analysis.statistics.telling import replicates, shared, untested, violated, words

    name = response.name if pool == _POOLED else f"{response.name}, {pool}"
    factors, of_factors = factors_of(rows, of_tuning=response.name == "quality")
    if not factors:
        alike = (
            "no stages that can be analysed" if rows.is_empty() else f"{_stages(rows.height)} with the same settings"
        )
        notes += [f"{name}: {alike}: nothing to compare", *(f"{name}: {note}" for note in of_factors)]
        return [], []
    design, of_design = design_of(factors, rows.height)
    fitted = fit(response, design, np.array([response.analysed(value) for value in rows[response.name]]))
    effects = rows_of(fitted)
    for row in effects:
        row |= {"response": response.name, "pool": pool, "words": words(row, response)}
    checked = assumption_rows(fitted, rows["stage_id"].to_list(), shared(rows))
    scatter = [untested(fitted)] if fitted.exact else [*replicates(rows, design), violated(checked)]
    told = [*of_factors, constant(rows), *of_design, *scatter]
    notes += [f"{name}: {note}" for note in told if note]
    return effects, [{"response": response.name, "pool": pool} | row for row in checked]


def _stages(count: int) -> str:
    return f"{count} stage" + "s" * (count != 1)
