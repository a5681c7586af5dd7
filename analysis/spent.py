"""What became of the joules of every attempt, and which were not spent again because a run went on from an earlier one.

An attempt that finished its stage is useful, and so is what it went on from: joules of earlier attempts that are
carried into its result. Everything else is lost once the stage goes another way.
"""

from typing import Final

import polars as pl

from analysis.kinds import AROUND, of_results
from analysis.load import Results
from analysis.states import ON_ITS_WAY, latest_attempts

_AROUND_SINCE: Final = 3
"""Schema version from which on the joules of an attempt around its windows are known, too."""

_ATTEMPT: Final = ["stage_id", "attempt"]


def spent(results: Results) -> pl.LazyFrame:
    """One row per attempt: a stage's row stands for the attempt that finished it, and for what that one went on from.

    Columns: `kind` of the stage and `state` of the attempt; `fate`, useful, running or lost; `energy_j` with what is
    around windows and without what is carried or in `checkpointed_j`, which a checkpoint holds for the stage's next
    attempt; `energy_measured_j`, `energy_estimated_j` in windows; `energy_kind`; `duration_s`.
    """
    others = results.attempts.join(results.stages, on=_ATTEMPT, how="anti")
    on_their_way = (
        latest_attempts(results)
        .filter(pl.col("attempt_state").is_in(ON_ITS_WAY))
        .join(results.stages, on="stage_id", how="anti")
        .select("stage_id", on_its_way=pl.lit(True))
    )
    parts = ["energy_measured_j", "energy_estimated_j"]
    unfinished = (
        others.join(carried(results), on=_ATTEMPT, how="left")
        .join(on_their_way, on="stage_id", how="left")
        .with_columns(
            (pl.col(name) - pl.col(f"carried_{name}").fill_null(0.0)).alias(name) for name in ("energy_j", *parts)
        )
        .with_columns(checkpointed_j=pl.when("on_its_way").then("energy_carried_j").fill_nan(None).fill_null(0.0))
        .select(
            *["kind", "state", *parts, "energy_kind", "duration_s"],
            fate=pl.when(pl.col("state") == "running").then(pl.lit("running")).otherwise(pl.lit("lost")),
            energy_j=with_around() - pl.col("checkpointed_j"),
            checkpointed_j=pl.when(with_around().is_not_null()).then("checkpointed_j"),
        )
    )
    useful = results.stages.select(
        *["kind", "state", *parts, "energy_kind", "duration_s"],
        fate=pl.lit("useful"),
        energy_j=with_around(),
        checkpointed_j=pl.lit(0.0),
    )
    return pl.concat([useful, unfinished])


def carried(results: Results) -> pl.LazyFrame:
    """Attempts that the result of a finished stage went on from, with the joules of theirs that are part of it.

    Columns: stage_id, attempt, `carried_energy_j`, and the measured and estimated parts of it.
    """
    measured = pl.col("measured").fill_null(value=False)
    of_windows = (
        of_results(results.energy, results.stages)
        .filter("carried", ~pl.col("window").is_in(AROUND))
        .group_by(_ATTEMPT)
        .agg(
            carried_energy_measured_j=pl.col("energy_j").filter(measured).sum(),
            carried_energy_estimated_j=pl.col("energy_j").filter(~measured).sum(),
        )
    )
    latest_first = pl.col("attempt").rank("dense", descending=True).over("stage_id")
    return (
        results.attempts.select(*_ATTEMPT, carried_energy_j=pl.col("energy_carried_j").fill_nan(None))
        .drop_nulls("carried_energy_j")
        .join(results.stages.select("stage_id", "carried_attempts", finishing="attempt"), on="stage_id")
        .filter(pl.col("attempt") < pl.col("finishing"))
        .filter(latest_first <= pl.col("carried_attempts"))
        .drop("carried_attempts", "finishing")
        .join(of_windows, on=_ATTEMPT, how="left")
    )


def finished_before(results: Results) -> pl.LazyFrame:
    """The asked-for stages that were finished in another run than the latest, which is that of the newest joule.

    Columns: stage_id, and `energy_j`, the joules of the attempt that finished it.
    """
    latest = results.energy.select(latest=pl.col("run").sort_by("started_at", nulls_last=False).last())
    runs = results.energy.group_by(_ATTEMPT).agg(pl.first("run"))
    of_earlier_attempts = carried(results).group_by("stage_id").agg(pl.sum("carried_energy_j"))
    return (
        results.asked_stages()
        .join(runs, on=_ATTEMPT)
        .join(latest, how="cross")
        .filter(pl.col("run").ne_missing(pl.col("latest")))
        .join(of_earlier_attempts, on="stage_id", how="left")
        .select("stage_id", energy_j=with_around() - pl.col("carried_energy_j").fill_null(0.0))
    )


def with_around() -> pl.Expr:
    """Joules of a row of stages or attempts, those around its windows too; null where a part is unknown."""
    around = pl.when(pl.col("schema_version") >= _AROUND_SINCE).then("energy_other_j").otherwise(0.0)
    return pl.col("energy_j").fill_nan(None) + around
