"""Finished inference stages as candidates for the ranking: each with its quality, its energy, or what is missing."""

import json
from typing import Final

import polars as pl

from analysis.load import Results

_J_PER_KWH: Final = 3.6e6

_SHARED: Final = ["model", "model_revision", "finetune_method", "finetune_precision", "precision"]
"""Columns that name a configuration together with its tasks, pruning and settings."""


def candidates(results: Results) -> pl.LazyFrame:
    """One row per finished inference stage that is asked for.

    Columns, beside those of the stages table:
        rho: mean over its tasks of the mean of the task's metrics, in [0, 1].
        quality: the metrics, as a list of (task, metric, value).
        inference_energy_j: joules of prefill and decode per request.
        finetune_energy_j: joules of the fine-tuning it serves; 0 for a base model.
        inference_carbon_g, finetune_carbon_g: g CO2e of those; null if a factor is unknown.
        all_measured: whether all of those joules come from hardware counters.
        configuration, family: what is the same for all its seeds; and the same with pruning left aside.
        reason: why it cannot be ranked (a quality or an energy that is missing or impossible), else null.
    """
    stages = _metered(results)
    if results.has_plan:
        stages = stages.join(results.plan, on="stage_id", how="semi")
    return stages.join(_graded(stages, results.quality), on="stage_id", how="left").with_columns(
        reason=_all_reasons("quality_fault", _unless_any("tasks", "it names no task"), *_ENERGY_FAULTS)
    )


def dense_parents(results: Results) -> pl.LazyFrame:
    """Inference energy per family without pruning, as the mean over seeds; planned or not."""
    return (
        _metered(results)
        .filter(pl.col("pruning") == "none", _fault_of("energy", "inference_energy_j").is_null())
        .group_by("family")
        .agg(
            parent_energy_j=pl.mean("inference_energy_j"),
            parent_carbon_g=known_mean("inference_carbon_g"),
            parent_measured=_all_true("measured"),
            parent_devices=pl.col("device_label").unique(),
        )
    )


def known_mean(column: str) -> pl.Expr:
    """The mean, or null if any value is null."""
    return pl.when(pl.col(column).null_count() == 0).then(pl.mean(column))


def _known_sum(column: str) -> pl.Expr:
    return pl.when(pl.col(column).null_count() == 0).then(pl.sum(column))


def _all_true(column: str) -> pl.Expr:
    return pl.col(column).fill_null(value=False).all()


def _metered(results: Results) -> pl.LazyFrame:
    """All finished inference stages, with the energy of what they start from."""
    trained = ~_starts_from_base()
    return (
        results.stages.filter(pl.col("kind") == "inference")
        .join(_finetunings(results.stages), on="stage_id", how="left")
        .with_columns(
            inference_energy_j="energy_j_per_request",
            inference_carbon_g=_carbon_g("energy_j_per_request"),
            finetune_energy_j=pl.when(trained).then("finetune_energy_j").otherwise(0.0),
            finetune_carbon_g=pl.when(trained).then("finetune_carbon_g").otherwise(0.0),
            all_measured=pl.col("measured").fill_null(value=False)
            & pl.when(trained).then(pl.col("finetune_measured").fill_null(value=False)).otherwise(statement=True),
            finetune_devices=pl.col("finetune_devices").fill_null([]),
            device_label=_device(),
            family=_key(_shared(), _settings_without("seed", "finetuned", "pruning"), pl.col("finetune_family")),
            configuration=_key(
                _shared(),
                *[pl.col("pruning"), pl.col("pruning_applied")],
                *[_settings_without("seed", "finetuned"), pl.col("finetune_configuration")],
            ),
        )
    )


def _starts_from_base() -> pl.Expr:
    """Nothing was fine-tuned. Where an older row does not say what it needs, its method must say so."""
    needs = pl.col("needs").list.len()
    return pl.when(needs.is_null()).then(pl.col("finetune_method").eq_missing("none")).otherwise(needs == 0)


def _finetunings(stages: pl.LazyFrame) -> pl.LazyFrame:
    """Per inference stage, the stages it needs as one: joules are their sum, null if any is unknown."""
    finetunings = stages.select(
        needs="stage_id",
        finetune_energy_j="energy_j",
        finetune_carbon_g=_carbon_g("energy_j"),
        finetune_measured="measured",
        finetune_devices=_device(),
        finetune_family=_settings_without("seed", "pruning"),
        finetune_configuration=_settings_without("seed"),
    )
    return (
        stages.filter(pl.col("kind") == "inference")
        .select("stage_id", "needs")
        .explode("needs")
        .join(finetunings, on="needs", how="left")
        .group_by("stage_id")
        .agg(
            finetune_energy_j=_known_sum("finetune_energy_j"),
            finetune_carbon_g=_known_sum("finetune_carbon_g"),
            finetune_measured=_all_true("finetune_measured"),
            finetune_devices=pl.col("finetune_devices").drop_nulls().unique().sort(),
            finetune_family=pl.col("finetune_family").sort().str.join("|"),
            finetune_configuration=pl.col("finetune_configuration").sort().str.join("|"),
        )
    )


def _graded(stages: pl.LazyFrame, quality: pl.LazyFrame) -> pl.LazyFrame:
    """Quality per stage. A metric that any compared stage has for a task is expected of all that have the task."""
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


def _fault_of(name: str, column: str) -> pl.Expr:
    """What is wrong with an energy. Work takes energy: 0 J is a counter that did not move, not a saving."""
    value = pl.col(column)
    return (
        pl.when(value.is_null())
        .then(pl.lit(f"{name} is unknown"))
        .when(~value.is_finite() | (value <= 0))
        .then(pl.format(f"{name} is {{}} J", value))
    )


_ENERGY_FAULTS: Final = [
    _fault_of("energy per request", "inference_energy_j"),
    pl.when(~_starts_from_base()).then(
        pl.format(
            "{} (fine-tuning {})",
            _fault_of("energy of fine-tuning", "finetune_energy_j"),
            pl.col("needs").list.join(", ").fill_null("not named"),
        )
    ),
]


def _unless_any(column: str, reason: str) -> pl.Expr:
    return pl.when(pl.col(column).list.len().fill_null(0) == 0).then(pl.lit(reason))


def _all_reasons(*reasons: str | pl.Expr) -> pl.Expr:
    return pl.concat_str(*reasons, separator="; ", ignore_nulls=True).replace("", None)


def _carbon_g(energy_j: str) -> pl.Expr:
    """PUE is in the factor already."""
    return pl.col(energy_j) * pl.col("carbon_g_per_kwh").fill_nan(None) / _J_PER_KWH


def _device() -> pl.Expr:
    return pl.concat_str("device", "device_name", separator=" ", ignore_nulls=True).replace("", "unknown device")


def _shared() -> pl.Expr:
    return _key(*map(pl.col, _SHARED), pl.col("tasks").list.sort().list.join(","))


def _key(*parts: pl.Expr) -> pl.Expr:
    return pl.concat_str([part.fill_null("") for part in parts], separator="|")


def _settings_without(*names: str) -> pl.Expr:
    """The settings as canonical JSON with some top-level names left out; as they are where they are no JSON object."""

    def without(text: str) -> str:
        try:
            settings = json.loads(text)
        except ValueError:
            return text
        if not isinstance(settings, dict):
            return text
        return json.dumps({name: value for name, value in settings.items() if name not in names}, sort_keys=True)

    return pl.col("settings").map_elements(without, return_dtype=pl.String)
