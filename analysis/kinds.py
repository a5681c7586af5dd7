"""Whether joules were measured by hardware, estimated by a model, or both."""

from typing import Final

import polars as pl

MEASURED, ESTIMATED, MIXED, UNKNOWN = "measured", "estimated", "mixed", "unknown"

SERVING: Final = ["prefill", "decode"]
"""Windows of an inference that go into its joules per request. Of a fine-tuning all windows but those around count."""

AROUND: Final = ["other", "checkpoint"]
"""What surrounds an attempt's work, such as loading and writing checkpoints: spent, and compared with nothing."""


def kind_of(measured: str) -> pl.Expr:
    """The kind of a group of energy rows, from their column `measured`."""
    return (
        pl.when(pl.col(measured).all())
        .then(pl.lit(MEASURED))
        .when(~pl.col(measured).any())
        .then(pl.lit(ESTIMATED))
        .otherwise(pl.lit(MIXED))
    )


def all_of(kinds: pl.Expr) -> pl.Expr:
    """The kind of a sum from the list of its parts' kinds, each once: one that is unknown makes the sum unknown."""
    return (
        pl.when(kinds.list.contains(UNKNOWN) | (kinds.list.len() == 0))
        .then(pl.lit(UNKNOWN))
        .when(kinds.list.len() == 1)
        .then(kinds.list.first())
        .otherwise(pl.lit(MIXED))
    )


def with_kind(totals: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of stages or attempts with `energy_kind` and its parts, where an older schema had only `measured`.

    What was not wholly measured is then called estimated: how much of it was measured, such a row does not tell.
    """
    older = pl.col("energy_kind").is_null() & pl.col("measured").is_not_null()
    measured, known = older & pl.col("measured"), pl.col("energy_j").is_not_null()
    return totals.with_columns(
        energy_kind=pl.when(measured)
        .then(pl.lit(MEASURED))
        .when(older)
        .then(pl.lit(ESTIMATED))
        .otherwise("energy_kind"),
        energy_measured_j=pl.when(older & known)
        .then(pl.when("measured").then("energy_j").otherwise(0.0))
        .otherwise("energy_measured_j"),
        energy_estimated_j=pl.when(older & known)
        .then(pl.when("measured").then(0.0).otherwise("energy_j"))
        .otherwise("energy_estimated_j"),
    )


def of_results(energy: pl.LazyFrame, stages: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of energy that are part of a finished stage's joules: of the attempt that finished it, and carried ones.

    Carried are those rows of the `carried_attempts` last earlier attempts that are kept; kept ones before these belong
    to a result that has been replaced.

    Returns:
        Columns of the energy table, `stage_kind`, and `carried`: whether another attempt than the finishing one spent
        it.
    """
    finishing = stages.select("stage_id", "carried_attempts", finishing="attempt", stage_kind="kind")
    spent = energy.join(finishing, on="stage_id")
    latest_first = pl.col("attempt").rank("dense", descending=True).over("stage_id")
    own = spent.filter(pl.col("attempt") == pl.col("finishing")).with_columns(carried=pl.lit(value=False))
    carried = (
        spent.filter(pl.col("attempt") < pl.col("finishing"), pl.col("kept"))
        .filter(latest_first <= pl.col("carried_attempts"))
        .with_columns(carried=pl.lit(value=True))
    )
    return pl.concat([own, carried]).drop("finishing", "carried_attempts")


def metered(stages: pl.LazyFrame, energy: pl.LazyFrame) -> pl.LazyFrame:
    """What the joules of finished stages that a ranking counts are made of.

    Returns:
        stage_id; `part_kind`, measured, estimated, mixed or unknown, of the windows that count, or of the whole stage
        where the energy table does not have them; `made_of`, such as "cpu estimated + gpu measured", null likewise.
    """
    component = pl.format("{} {}", "component", pl.when("measured").then(pl.lit(MEASURED)).otherwise(pl.lit(ESTIMATED)))
    of_finetuning = (pl.col("stage_kind") == "finetune") & ~pl.col("window").is_in(AROUND)
    windows = (
        of_results(energy, stages)
        .filter(pl.col("window").is_in(SERVING) | of_finetuning)
        .select("stage_id", "component", pl.col("measured").fill_null(value=False))
        .unique()
        .with_columns(component=component)
        .group_by("stage_id")
        .agg("component", windows_kind=kind_of("measured"))
        .with_columns(made_of=pl.col("component").list.sort().list.join(" + "))
    )
    return stages.join(windows, on="stage_id", how="left").select(
        "stage_id", "made_of", part_kind=pl.coalesce("windows_kind", "energy_kind", pl.lit(UNKNOWN))
    )
