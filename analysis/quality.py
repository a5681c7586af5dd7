"""How well each inference stage did its tasks."""

import polars as pl


def graded(stages: pl.LazyFrame, quality: pl.LazyFrame) -> pl.LazyFrame:
    """Quality per stage. A metric that any compared stage has for a task is expected of all that have the task.

    Returns:
        stage_id; `rho`, the mean over its tasks of the mean of the task's metrics; `quality`, the metrics as a list of
        (task, metric, value); `quality_fault`, what is missing or impossible, else null.
    """
    values = (
        quality.join(stages.select("stage_id", finishing="attempt"), on="stage_id")
        .filter((pl.col("attempt") == pl.col("finishing")).fill_null(value=True))
        .select("stage_id", "task", "metric", "value")
    )
    return (
        stages.select("stage_id", task="tasks")
        .explode("task")
        .join(values.select("task", "metric").unique(), on="task", how="left")
        .join(values, on=["stage_id", "task", "metric"], how="left")
        .sort("stage_id", "task", "metric")
        .group_by("stage_id", "task", maintain_order=True)
        .agg(pl.mean("value").alias("of_task"), _task_fault(), metrics=pl.struct("task", "metric", "value"))
        .group_by("stage_id", maintain_order=True)
        .agg(
            rho=pl.mean("of_task"),
            quality=pl.col("metrics").list.explode(),
            quality_fault=pl.col("task_fault").drop_nulls().str.join("; ").replace("", None),
        )
    )


def _task_fault() -> pl.Expr:
    name, value = pl.format("{}.{}", "task", "metric"), pl.col("value")
    fault = (
        pl.when(value.is_null())
        .then(pl.format("{} is missing", name))
        .when(~value.is_between(0, 1))
        .then(pl.format("{} is {}, not in [0, 1]", name, value))
    )
    return (
        pl.when(value.null_count() == pl.len())
        .then(pl.format("no quality of {}", pl.first("task")))
        .otherwise(fault.drop_nulls().str.join("; ").replace("", None))
        .alias("task_fault")
    )
