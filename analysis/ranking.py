"""Which configuration gives the best quality per joule.

    R = w * phi + (1 - w) * rho

- rho, quality: mean over tasks of the task's quality, which is the mean of its metrics, each in [0, 1].
- E, joules per request: of inference, plus the joules of fine-tuning spread over `requests`; or another of the
  energy metrics of `analysis.metrics`.
- phi, energy efficiency in [0, 1] over the compared set: `minmax` = (E_max - E) / (E_max - E_min), which depends on
  who is in the set: taking a configuration out can reverse the order of two others; it is 1 where all E are equal
  (to 9 digits), a single row included. `ratio` = E_min / E, which depends on the best one only and never reaches 0.

A row is a configuration; E and rho are means over its seeds. A simulated pruning gets no credit for energy: it is
ranked with the inference energy of its dense parent, the same configuration without pruning.

Only like is compared with like: joules that hardware measured are not ranked against those of a model, nor those of
some components against those of others, unless that is allowed.
"""

import sys
from typing import Final, Literal, get_args

import polars as pl

from analysis.candidates import Energy, candidates, dense_parents, known_mean
from analysis.comparable import NotComparable, differing, refuse_to_compare
from analysis.kinds import MEASURED, all_of
from analysis.load import Results
from analysis.metrics import METRICS, Metric, value_of
from analysis.settings import short_name
from analysis.states import states
from energyaware.errors import InputError

Phi = Literal["minmax", "ratio"]

COLUMNS: Final = [
    *["rank", "score", "phi", "rho", "model", "precision", "pruning", "pruning_applied", "realisation"],
    *["energy_j_per_request", "finetune_energy_j", "carbon_g_per_request", "cost_per_request", "currency"],
    *["energy_kind", "made_of", "measured", "marks", "seeds", "stage_ids"],
    *["phi_minmax", "phi_ratio", "energy_from", "own_energy_j_per_request", "quality"],
    *["model_revision", "tasks", "finetune_method", "finetune_precision", "devices"],
    *["gpu_kind", "mixed", "mixed_energy", "mixed_devices"],
    *["configuration", "ranked_by", "energy_j_per_token", "energy_j_per_correct", "edp_js", "seconds_per_request"],
    "inference_energy_j_per_request",
]

DENSE_PARENT: Final = "dense parent"
"""Stands in `energy_from` of a simulated pruning that was ranked with the energy of another configuration."""

SAME_ENERGY: Final = 1e-9
"""Energies that all agree to this share are equal: no meter is finer, and min-max would blow rounding up to 0 and 1."""

SAME_SCORE_DIGITS: Final = 12
"""Scores that agree to this many decimals are a tie: a difference beyond it is rounding."""


def ranking(
    results: Results,
    weight: float = 0.5,
    requests: int = 10_000,
    phi: Phi = "minmax",
    *,
    energy: Energy = "gross",
    metric: Metric = "request",
    allow_mixed: bool = False,
    asked_only: bool = True,
    gpu_kind: str | None = None,
) -> pl.LazyFrame:
    """Configurations by score, best first; equal scores share a rank.

    Args:
        results: a loaded results folder.
        weight: w, how much energy counts against quality, from 0 to 1.
        requests: how many requests the energy of fine-tuning is spread over, at least 1.
        phi: which energy efficiency goes into the score. Both are columns.
        energy: `gross`, or `net` of what the machines draw when idle; carbon and cost are those of the same joules.
        metric: what phi is computed from, one of those of `analysis.metrics`; all that are known are columns.
        allow_mixed: whether to compare energies of different kinds. Column `mixed_energy` then says that they differ.
        asked_only: whether only what the plan asks for is compared; else all that is finished is, such as values that
            were dropped from the sweep file.
        gpu_kind: only what was measured on GPUs with this in their product name is compared.

    Returns:
        A frame with `COLUMNS`. `ranked_by` is the value of the metric, `energy_j_per_request` is E, `made_of` the
        components of its inference part, and `marks` what its windows were marked with; `energy_from` says whose
        inference energy it holds. `configuration` names the row, the same in every sweep that has it.

    Raises:
        InputError: an argument is out of its range.
        NotComparable: the energies are not alike, and `allow_mixed` is False; or costs in several currencies.
    """
    _check(weight, requests, phi, energy, metric)
    rows = (
        candidates(results, energy, metric=metric, asked_only=asked_only, gpu_kind=gpu_kind)
        .filter(pl.col("reason").is_null())
        .pipe(_per_configuration)
        .pipe(_with_energy_of_dense_parent, dense_parents(results, energy, metric=metric))
        .with_columns(**_values(requests))
        .with_columns(**_in_one_currency(), **_devices(), ranked_by=pl.col(METRICS[metric].column))
        .with_columns(**_efficiencies(), configuration=name_of("configuration"))
        .with_columns(inference_energy_j_per_request="inference_energy_j")
        .with_columns(phi=pl.col(f"phi_{phi}"))
        .with_columns(score=weight * pl.col("phi") + (1 - weight) * pl.col("rho"))
        .with_columns(rank=pl.col("score").round(SAME_SCORE_DIGITS).rank("min", descending=True).cast(pl.Int64))
        .sort("rank", "model", "precision", "pruning", "pruning_applied", "configuration")
        .collect(engine="in-memory")
    )
    if metric == "cost" and len(currencies := rows["currencies"].explode().unique().sort()) > 1:
        named = ", ".join(currency or "one that is not named" for currency in currencies)
        raise NotComparable("ranking", "metric", f"costs are in several currencies ({named}) and have no order")
    difference = differing(rows)
    if difference and not allow_mixed:
        raise refuse_to_compare(difference)
    mixed_energy = pl.lit(difference is not None)
    return (
        rows.lazy()
        .with_columns(mixed_energy=mixed_energy, mixed=mixed_energy | pl.col("mixed_devices"))
        .select(COLUMNS)
    )


def left_out(
    results: Results,
    energy: Energy = "gross",
    *,
    metric: Metric = "request",
    asked_only: bool = True,
    gpu_kind: str | None = None,
) -> pl.LazyFrame:
    """Stages that would be compared and are not ranked: infeasible, failed, running, pending, incomplete, …, and why.

    One row per configuration and seed. `incomplete` is a finished stage that lacks a quality, an energy or what the
    metric needs, or whose energy cannot be believed: it is never filled in.
    """
    unfinished = states(results).filter(pl.col("kind") == "inference", pl.col("state") != "finished")
    incomplete = (
        candidates(results, energy, metric=metric, asked_only=asked_only, gpu_kind=gpu_kind)
        .filter(pl.col("reason").is_not_null())
        .with_columns(state=pl.lit("incomplete"))
    )
    columns = ["model", "precision", "finetune_precision", "pruning", "pruning_applied", "seed", "state", "reason"]
    columns += ["stage_id"]
    return pl.concat([unfinished.select(columns), incomplete.select(columns)]).sort(columns)


def name_of(key: str) -> pl.Expr:
    """A short name for the key of a configuration: 16 hexadecimal digits of its hash."""
    return pl.col(key).map_elements(short_name, return_dtype=pl.String)


def _check(weight: float, requests: int, phi: str, energy: str, metric: str) -> None:
    if not 0 <= weight <= 1:
        raise InputError("ranking", "weight", f"{weight} is not allowed: a number from 0 (quality) to 1 (energy)")
    if not 1 <= requests <= sys.float_info.max:
        raise InputError("ranking", "requests", f"{requests} is not allowed: a number of at least 1")
    choices = {"phi": (phi, get_args(Phi)), "energy": (energy, get_args(Energy)), "metric": (metric, tuple(METRICS))}
    for name, (chosen, allowed) in choices.items():
        if chosen not in allowed:
            raise InputError("ranking", name, f"{chosen!r} is not allowed: one of {', '.join(allowed)}")


def _per_configuration(stages: pl.LazyFrame) -> pl.LazyFrame:
    """Means over seeds. Energy and quality are known in every row; a carbon that is not makes the mean unknown."""
    return (
        stages.sort("seed", "stage_id")
        .group_by("configuration", maintain_order=True)
        .agg(
            pl.first("family", "model", "model_revision", "tasks", "finetune_method", "finetune_precision"),
            pl.first("precision", "pruning", "pruning_applied", "gpu_kind"),
            realisation=pl.col("realisation").drop_nulls().unique().sort().str.join(", ").replace("", None),
            own_energy_j_per_request=pl.mean("inference_energy_j"),
            own_carbon_g=known_mean("inference_carbon_g"),
            own_cost=known_mean("inference_cost"),
            own_tokens_per_request=known_mean("tokens_per_request"),
            own_seconds_per_request=known_mean("seconds_per_request"),
            own_currencies=pl.col("price_currency").unique(),
            own_kinds=pl.col("inference_kind").unique(),
            own_made_of=pl.col("made_of").unique(),
            own_marks=pl.col("inference_marks").list.explode().unique(),
            finetune_energy_j=pl.mean("finetune_energy_j"),
            finetune_carbon_g=known_mean("finetune_carbon_g"),
            finetune_cost=known_mean("finetune_cost"),
            finetune_currencies=pl.col("finetune_currencies").list.explode().drop_nulls().unique(),
            finetune_kinds=pl.col("finetune_kind").drop_nulls().unique(),
            finetune_marks=pl.col("finetune_marks").list.explode().unique(),
            rho=pl.mean("rho"),
            correct_per_request=known_mean("correct_per_request"),
            own_devices=pl.col("device_label").unique(),
            finetune_devices=pl.col("finetune_devices").list.explode().unique(),
            seeds=pl.col("seed").drop_nulls().unique().sort(),
            stage_ids=pl.concat([pl.col("stage_id"), pl.col("needs").list.explode()]).unique(maintain_order=True),
        )
        .join(_quality_means(stages), on="configuration", how="left")
    )


def _quality_means(stages: pl.LazyFrame) -> pl.LazyFrame:
    return (
        stages.select("configuration", "quality")
        .explode("quality")
        .unnest("quality")
        .group_by("configuration", "task", "metric")
        .agg(pl.mean("value"))
        .sort("configuration", "task", "metric")
        .group_by("configuration")
        .agg(quality=pl.struct("task", "metric", "value"))
    )


def _with_energy_of_dense_parent(rows: pl.LazyFrame, parents: pl.LazyFrame) -> pl.LazyFrame:
    """Simulated prunings take their dense parent's inference energy; where there is none they keep their own."""
    unrealised = pl.col("realisation").str.contains("simulated").fill_null(pl.col("pruning") != "none")
    borrowed = unrealised & pl.col("parent_energy_j").is_not_null()

    def ranked(parent: str, own: str) -> pl.Expr:
        return pl.when(borrowed).then(parent).otherwise(own)

    return rows.join(parents, on="family", how="left").with_columns(
        inference_energy_j=ranked("parent_energy_j", "own_energy_j_per_request"),
        inference_carbon_g=ranked("parent_carbon_g", "own_carbon_g"),
        inference_cost=ranked("parent_cost", "own_cost"),
        tokens_per_request=ranked("parent_tokens_per_request", "own_tokens_per_request"),
        seconds_per_request=ranked("parent_seconds_per_request", "own_seconds_per_request"),
        currencies=ranked("parent_currencies", "own_currencies").list.set_union("finetune_currencies"),
        energy_kind=(kind := all_of(ranked("parent_kinds", "own_kinds").list.set_union("finetune_kinds"))),
        measured=kind == MEASURED,
        made_of=ranked("parent_made_of", "own_made_of")
        .list.drop_nulls()
        .list.sort()
        .list.join(" or ")
        .replace("", None),
        marks=ranked("parent_marks", "own_marks")
        .list.set_union("own_marks")
        .list.set_union("finetune_marks")
        .list.drop_nulls()
        .list.sort(),
        inference_devices=ranked("parent_devices", "own_devices").list.set_union("own_devices"),
        energy_from=pl.when(borrowed)
        .then(pl.lit(DENSE_PARENT))
        .when(unrealised)
        .then(pl.lit("own (no dense parent)"))
        .otherwise(pl.lit("own")),
    )


def _efficiencies() -> dict[str, pl.Expr]:
    energy = pl.col("ranked_by")
    span = energy.max() - energy.min()
    return {
        "phi_minmax": pl.when(span > SAME_ENERGY * energy.max()).then((energy.max() - energy) / span).otherwise(1.0),
        "phi_ratio": energy.min() / energy,
    }


def _values(requests: int) -> dict[str, pl.Expr]:
    """All metrics; null where what one needs is unknown, or it has no bound."""
    values = {of.column: value_of(metric, pl.col, requests) for metric, of in METRICS.items()}
    return {column: pl.when(value.is_finite()).then(value) for column, value in values.items()}


def _in_one_currency() -> dict[str, pl.Expr]:
    """Prices in several currencies have no sum."""
    one = pl.col("currencies").list.len() == 1
    return {
        "cost_per_request": pl.when(one).then("cost_per_request"),
        "currency": pl.when(one).then(pl.col("currencies").list.first().replace("", None)),
    }


def _devices() -> dict[str, pl.Expr]:
    """`mixed_devices`: the compared set holds several kinds of device."""

    def several(column: str) -> pl.Expr:
        return pl.col(column).list.explode().n_unique() > 1

    return {
        "devices": pl.col("inference_devices").list.set_union("finetune_devices").list.sort(),
        "mixed_devices": several("inference_devices") | several("finetune_devices"),
    }
