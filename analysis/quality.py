"""How well each inference stage did its tasks, on a scale from 0, worst, to 1, best.

Every metric maps to [0, 1], higher is better, in one of these ways:

| metric                              | quality                                                               |
|-------------------------------------|-----------------------------------------------------------------------|
| accuracy, macro_f1                  | as it is: shares of 1                                                 |
| rouge_l                             | as it is: mean F-measure of the longest common subsequence            |
| bleu                                | as it is: corpus BLEU, which the task has divided by 100              |
| any other that is not named below   | as it is                                                              |
| loss (nats per token)               | exp(-loss), the geometric mean of the probability of the right token  |
| perplexity                          | 1 / perplexity, which is the same probability                         |
| error_rate                          | 1 - error_rate                                                        |

What is then outside [0, 1] leaves its stage out, with a reason: nothing is clipped.
"""

from collections.abc import Callable
from typing import Final

import polars as pl

_LOWER_IS_BETTER: Final[dict[str, Callable[[pl.Expr], pl.Expr]]] = {
    "loss": lambda nats: (-nats).exp(),
    "perplexity": lambda perplexity: 1 / perplexity,
    "error_rate": lambda share: 1 - share,
}


def graded(stages: pl.LazyFrame, quality: pl.LazyFrame) -> pl.LazyFrame:
    """Quality per stage. A metric that any compared stage has for a task is expected of all that have the task.

    Returns:
        stage_id; `rho`, the mean over its tasks of the mean of the task's metrics; `quality`, the metrics as a list of
        (task, metric, value) as the tasks gave them; `correct_per_request`, the sum of its tasks' accuracies, and
        `accuracies`, how many these are: null and 0 where no task has one; `examples`, the size of the test set, null
        if a metric does not tell; `quality_fault`, what is missing or impossible, else null.
    """
    values = of_finishing(stages, quality).select("stage_id", "task", "metric", "value", "examples")
    return (
        stages.select("stage_id", task="tasks")
        .explode("task")
        .join(values.select("task", "metric").unique(), on="task", how="left")
        .join(values, on=["stage_id", "task", "metric"], how="left")
        .with_columns(on_scale=_on_scale())
        .with_columns(fault=_fault())
        .sort("stage_id", "task", "metric")
        .group_by("stage_id", "task", maintain_order=True)
        .agg(
            pl.col("fault").drop_nulls(),
            nothing=pl.col("value").null_count() == pl.len(),
            of_task=pl.mean("on_scale"),
            accuracy=pl.col("value").filter(pl.col("metric") == "accuracy").first(),
            examples=_smallest("examples"),
            metrics=pl.struct("task", "metric", "value"),
        )
        .with_columns(task_fault=_task_fault())
        .group_by("stage_id", maintain_order=True)
        .agg(
            rho=pl.mean("of_task"),
            quality=pl.col("metrics").list.explode(),
            correct_per_request=pl.when(pl.col("accuracy").count() > 0).then(pl.sum("accuracy")),
            accuracies=pl.col("accuracy").count(),
            examples=_smallest("examples"),
            quality_fault=pl.col("task_fault").drop_nulls().str.join("; ").replace("", None),
        )
    )


def of_finishing(stages: pl.LazyFrame, quality: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of quality of the attempts that finished stages."""
    finishing = quality.join(stages.select("stage_id", finishing="attempt"), on="stage_id")
    return finishing.filter((pl.col("attempt") == pl.col("finishing")).fill_null(value=True))


def _on_scale() -> pl.Expr:
    """The value as quality from 0 to 1."""
    value = quality = pl.col("value")
    for metric, mapping in _LOWER_IS_BETTER.items():
        applies = (pl.col("metric") == metric) & value.is_finite()
        quality = pl.when(applies).then(mapping(value)).otherwise(quality)
    return quality


def _smallest(column: str) -> pl.Expr:
    return pl.when(pl.col(column).null_count() == 0).then(pl.min(column))


def _fault() -> pl.Expr:
    """What is missing or impossible of one metric of a task, else null."""
    name, value = pl.format("{}.{}", "task", "metric"), pl.col("value")
    mapped = pl.when(pl.col("metric").is_in(list(_LOWER_IS_BETTER))).then(pl.format("{}, as quality ", value))
    return (
        pl.when(value.is_null())
        .then(pl.format("{} is missing", name))
        .when(~pl.col("on_scale").is_between(0, 1))
        .then(pl.format("{} is {}{}, not in [0, 1]", name, mapped.otherwise(pl.lit("")), "on_scale"))
    )


def _task_fault() -> pl.Expr:
    """The faults of a task's metrics in words, null where it has none."""
    return (
        pl.when("nothing")
        .then(pl.format("no quality of {}", "task"))
        .otherwise(pl.col("fault").list.join("; ").replace("", None))
    )
