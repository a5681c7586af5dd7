"""What a configuration is called where people read: "bf16 + magnitude-2:4"."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import polars as pl

_IF_VARIED: Final = ["pruning_applied", "model", "model_revision", "gpu_kind", "finetune_method", "tasks"]
"""Said of every configuration where some differ in it."""

_TELLING: Final = 8
"""Digits of a configuration's name that tell those of a folder apart, or of a revision those of a model."""

_HASH: Final = rf"^([0-9a-f]{{{_TELLING}}})(?:[0-9a-f]{{4}}|[0-9a-f]{{32}})$"
"""A revision that is a hash: of a folder, or a commit. Others are names, such as those of branches."""


def precision_of(row: dict[str, Any]) -> str:
    """`nf4`, or `bf16→nf4` of what was fine-tuned in another precision than it is served in."""
    served, tuned = row["precision"], row["finetune_precision"]
    return f"{served}" if tuned in {None, served} else f"{tuned}→{served}"


def both_precisions() -> pl.Expr:
    """What `precision_of` says, as the column `precision` of a frame."""
    both = pl.struct("precision", "finetune_precision")
    return both.map_elements(precision_of, return_dtype=pl.String).alias("precision")


def label_of(row: dict[str, Any], *, also: Sequence[str] = ()) -> str:
    """Precision and pruning of a ranked row, and what else is asked for: "bf16 + heads-25% after tuning (full, H100)".

    Args:
        row: a row of `analysis.ranking.ranking`.
        also: other columns that are to be said, in this order; what is unknown is passed over.
    """
    pruned = row["pruning"] not in {None, "none"}
    name = " + ".join([precision_of(row), *([row["pruning"]] if pruned else [])])
    if pruned and "pruning_applied" in also and row["pruning_applied"]:
        name += f" {row['pruning_applied']} tuning"
    beside = [_word(column, row[column]) for column in also if column != "pruning_applied" and row[column]]
    return f"{name} ({', '.join(beside)})" if beside else name


def labels(rows: pl.DataFrame) -> dict[str, str]:
    """Labels by configuration, no two alike: with model, GPU kind, method, … only where rows differ in them.

    Configurations that differ in a setting that is no column, such as the batch size, are told apart by the beginning
    of their name in the column `configuration`.
    """
    where = {"pruning_applied": pl.col("pruning") != "none", "finetune_method": pl.col("finetune_method") != "none"}
    rows = with_short_models(rows).with_columns(pl.col("model_revision").str.replace(_HASH, "$1"))
    varied = [name for name in _IF_VARIED if rows.filter(where.get(name, True))[name].n_unique() > 1]
    if rows.select("model", "model_revision").n_unique() == rows["model"].n_unique():
        varied = [name for name in varied if name != "model_revision"]
    some_tuned = rows["finetune_method"].n_unique() > 1
    named = {row["configuration"]: label_of(row, also=_also(row, varied, some_tuned)) for row in rows.to_dicts()}
    shared = Counter(named.values())
    return {
        configuration: label if shared[label] == 1 else f"{label} [{configuration[:_TELLING]}]"
        for configuration, label in named.items()
    }


def with_short_models(rows: pl.DataFrame) -> pl.DataFrame:
    """Models without their owner or folder, where that leaves no two alike."""
    models = {model: model.rstrip("/").rsplit("/", 1)[-1] for model in rows["model"].drop_nulls().unique()}
    if len(set(models.values())) < len(models):
        models = {}
    return rows.with_columns(pl.col("model").replace(models))


def _also(row: dict[str, Any], varied: list[str], some_tuned: bool) -> list[str]:
    """Where all that is fine-tuned is so by one method, only what is not says it."""
    untuned = some_tuned and row["finetune_method"] == "none"
    return [*varied, "finetune_method"] if untuned and "finetune_method" not in varied else varied


def _word(column: str, value: object) -> str:
    if column == "finetune_method" and value == "none":
        return "not tuned"
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)
