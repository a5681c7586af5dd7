"""What became of every stage that is asked for.

States of a stage: finished, the state of its latest attempt (running, failed, diverged, oom, interrupted, …), `blocked`
when a stage it starts from failed, `infeasible`, `skipped` when a funnel chose others, or `pending` when it has not run
yet.
"""

from typing import Final

import polars as pl

from analysis.load import Results

LEFT: Final = ["pending", "interrupted"]
"""States from which the next run goes on by itself."""

ON_ITS_WAY: Final = ["running", "interrupted"]
"""States of an attempt after which the stage goes on from its last checkpoint."""

NO_FAILURE: Final = ["finished", "running", "stopped", "skipped", *LEFT]

_NO_DEAD_END: Final = ["infeasible", *NO_FAILURE]

_OF_PLAN: Final = ["infeasible", "skipped"]
"""States that the plan gives a stage that is not to run."""

_ASKED: Final = [
    *["stage_id", "kind", "needs", "model", "model_revision", "tasks", "finetune_method", "finetune_precision"],
    *["precision", "pruning", "pruning_applied", "seed", "state", "reason"],
]


def states(results: Results) -> pl.LazyFrame:
    """One row per stage that is asked for, with the configuration's columns, `state` and `reason` (one line).

    The plan says what is asked for; without a plan, it is all stages that finished or were tried.
    """
    alone = (
        _asked(results)
        .join(results.stages.select("stage_id", committed=pl.lit(True)), on="stage_id", how="left")
        .join(latest_attempts(results), on="stage_id", how="left")
        .with_columns(state=_own_state(), reason=_own_reason())
    )
    return (
        alone.join(_waiting(alone), on="stage_id", how="left")
        .with_columns(
            state=pl.when(_untried()).then(pl.coalesce("state_by_needs", "state")).otherwise("state"),
            reason=pl.when(_untried()).then(pl.coalesce("reason_by_needs", "reason")).otherwise("reason"),
        )
        .select(_ASKED)
    )


def _asked(results: Results) -> pl.LazyFrame:
    if results.has_plan:
        return results.plan.select(_ASKED)
    tried = (
        results.attempts.unique("stage_id", keep="any")
        .join(results.stages, on="stage_id", how="anti")
        .select(
            "stage_id",
            "kind",
            model=_setting("model.name"),
            precision=_setting("precision"),
            pruning=_setting("pruning.kind"),
            pruning_applied=_setting("pruning.applied"),
            seed=_setting("seed").cast(pl.Int64, strict=False),
        )
    )
    return pl.concat([results.stages.select(_ASKED[:-1]), tried], how="diagonal").with_columns(
        state=pl.lit("planned"), reason=pl.lit(None, pl.String)
    )


def _setting(path: str) -> pl.Expr:
    return pl.col("settings").str.json_path_match(f"$.{path}")


def latest_attempts(results: Results) -> pl.LazyFrame:
    """Number, state and reason of the latest attempt at each stage."""
    return (
        results.attempts.sort("attempt", nulls_last=False)
        .unique("stage_id", keep="last", maintain_order=True)
        .select("stage_id", "attempt", attempt_state="state", attempt_reason="reason")
    )


def _own_state() -> pl.Expr:
    """The state of a stage, what it starts from left aside."""
    return (
        pl.when("committed")
        .then(pl.lit("finished"))
        .when(pl.col("state").is_in(_OF_PLAN))
        .then("state")
        .when(pl.col("attempt_state") != "finished")
        .then("attempt_state")
        .otherwise(pl.lit("pending"))
    )


def _own_reason() -> pl.Expr:
    number = pl.col("attempt").cast(pl.String)
    return (
        pl.when("committed")
        .then(None)
        .when(pl.col("state").is_in(_OF_PLAN))
        .then(pl.coalesce("reason", pl.format("{} here", "state")))
        .when(pl.col("attempt_state") == "finished")
        .then(pl.format("attempt {} ended but its row was not written: it will run again", number))
        .when(pl.col("attempt_state") == "running")
        .then(pl.format("attempt {} is running", number))
        .when(pl.col("attempt_state").is_not_null())
        .then(pl.coalesce("attempt_reason", pl.format("attempt {}, no reason recorded", number)))
        .otherwise(pl.lit("not run yet"))
    )


def _untried() -> pl.Expr:
    return pl.col("state") == "pending"


def _waiting(alone: pl.LazyFrame) -> pl.LazyFrame:
    """For each stage that starts from an unfinished one: the state and reason that follow from it."""
    needed = alone.select(needs="stage_id", needed_kind="kind", needed_state="state", needed_reason="reason")
    dead_end = ~pl.col("needed_state").is_in(_NO_DEAD_END)
    return (
        alone.select("stage_id", "needs")
        .explode("needs")
        .join(needed, on="needs")
        .filter(pl.col("needed_state") != "finished")
        .select(
            "stage_id",
            state_by_needs=pl.when(dead_end)
            .then(pl.lit("blocked"))
            .when(pl.col("needed_state").is_in(["infeasible", "stopped"]))
            .then("needed_state")
            .otherwise(pl.lit("pending")),
            reason_by_needs=pl.format("its {} {} {}", "needed_kind", "needs", _what_happened()),
        )
        .unique("stage_id", keep="first", maintain_order=True)
    )


def _what_happened() -> pl.Expr:
    state, reason = pl.col("needed_state"), pl.col("needed_reason")
    return (
        pl.when(state == "pending")
        .then(reason.str.replace("^not run yet$", "has not run yet"))
        .when(state == "running")
        .then(pl.lit("is running"))
        .when(state == "interrupted")
        .then(pl.format("was interrupted: {}", reason))
        .when(state == "infeasible")
        .then(pl.format("is infeasible: {}", reason))
        .when(state == "oom")
        .then(pl.format("ran out of memory: {}", reason))
        .otherwise(pl.format("{}: {}", state, reason))
    )
