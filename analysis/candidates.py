"""Finished inference stages as candidates for the ranking: each with its quality, its energy, or what is missing."""

import json
from typing import Final, Literal

import polars as pl

from analysis.kinds import all_of, metered
from analysis.load import Results
from analysis.marks import that_count, why_implausible
from analysis.quality import graded

Energy = Literal["gross", "net"]
"""Joules as metered, or those beyond what the machines draw when idle."""

_JOULES: Final[dict[Energy, tuple[str, str]]] = {
    "gross": ("energy_j_per_request", "energy_j"),
    "net": ("energy_net_j_per_request", "energy_net_j"),
}
"""Columns of the stages table: of an inference per request, and of a fine-tuning."""

_WORD: Final[dict[Energy, str]] = {"gross": "", "net": "net "}

_UNKNOWN_GPU: Final = "no known GPU"

_J_PER_KWH: Final = 3.6e6

_SHARED: Final = ["model", "model_revision", "finetune_method", "finetune_precision", "precision", "gpu_kind"]
"""Columns that name a configuration together with its tasks, pruning and settings."""


def candidates(
    results: Results, energy: Energy = "gross", *, asked_only: bool = True, gpu_kind: str | None = None
) -> pl.LazyFrame:
    """One row per finished inference stage; `asked_only`: of those that the plan asks for.

    `gpu_kind` is part of a product name: what was measured on other GPUs cannot be ranked then.

    Columns, beside those of the stages table:
        rho: mean over its tasks of the mean of the task's metrics, in [0, 1].
        quality: the metrics, as a list of (task, metric, value).
        inference_energy_j: joules of prefill and decode per request.
        finetune_energy_j: joules of the fine-tuning it serves; 0 for a base model.
        inference_carbon_g, finetune_carbon_g: g CO2e of those joules; null if a factor is unknown.
        inference_cost, finetune_cost: price of those joules; null if it is unknown.
        inference_kind, finetune_kind: measured, estimated, mixed or unknown; null for the fine-tuning of a base model.
        made_of: components of the inference energy, each measured or estimated; null if the energy table is silent.
        inference_marks, finetune_marks: what the windows of those joules were marked with.
        configuration, family: what is the same for all its seeds; and the same with pruning left aside.
        gpu_kinds: product names of the GPUs that it and its fine-tuning were measured on; `gpu_kind`: as text.
        reason: why it cannot be ranked (a quality or an energy that is missing or impossible), else null.
    """
    stages = _metered(results, energy)
    if results.has_plan and asked_only:
        stages = stages.join(results.plan, on="stage_id", how="semi")
    return stages.join(graded(stages, results.quality), on="stage_id", how="left").with_columns(
        reason=_all_reasons(
            "quality_fault",
            _unless_any("tasks", "it names no task"),
            *_energy_faults(energy),
            *([] if gpu_kind is None else [_unless_on(gpu_kind)]),
        )
    )


def dense_parents(results: Results, energy: Energy = "gross") -> pl.LazyFrame:
    """Inference energy per family without pruning, as the mean over seeds; planned or not."""
    sound = pl.all_horizontal(fault.is_null() for fault in _inference_faults(energy))
    return (
        _metered(results, energy)
        .filter(pl.col("pruning") == "none", sound)
        .group_by("family")
        .agg(
            parent_energy_j=pl.mean("inference_energy_j"),
            parent_carbon_g=known_mean("inference_carbon_g"),
            parent_cost=known_mean("inference_cost"),
            parent_currencies=pl.col("price_currency").unique(),
            parent_kinds=pl.col("inference_kind").unique(),
            parent_made_of=pl.col("made_of").unique(),
            parent_marks=pl.col("inference_marks").list.explode().unique(),
            parent_devices=pl.col("device_label").unique(),
        )
    )


def known_mean(column: str) -> pl.Expr:
    """The mean, or null if any value is null."""
    return pl.when(pl.col(column).null_count() == 0).then(pl.mean(column))


def _known_sum(column: str) -> pl.Expr:
    return pl.when(pl.col(column).null_count() == 0).then(pl.sum(column))


def _metered(results: Results, energy: Energy) -> pl.LazyFrame:
    """All finished inference stages, with the energy of what they start from."""
    trained = ~_starts_from_base()
    joules, _ = _JOULES[energy]
    stages = _with_parts(results)
    return (
        stages.filter(pl.col("kind") == "inference")
        .join(_finetunings(stages, energy), on="stage_id", how="left")
        .with_columns(
            inference_energy_j=joules,
            inference_carbon_g=_carbon_g(joules),
            inference_cost=_cost(joules),
            inference_kind="part_kind",
            inference_marks="part_marks",
            finetune_energy_j=pl.when(trained).then("finetune_energy_j").otherwise(0.0),
            finetune_carbon_g=pl.when(trained).then("finetune_carbon_g").otherwise(0.0),
            finetune_cost=pl.when(trained).then("finetune_cost").otherwise(0.0),
            finetune_kind=pl.when(trained).then("finetune_kind"),
            finetune_currencies=pl.when(trained).then("finetune_currencies").otherwise([]),
            finetune_marks=pl.col("finetune_marks").fill_null([]),
            finetune_devices=pl.col("finetune_devices").fill_null([]),
            gpu_kinds=pl.concat_list("gpu", pl.col("finetune_gpus").fill_null([])).list.drop_nulls().list.unique(),
        )
        .with_columns(gpu_kind=_gpus())
        .with_columns(
            family=_key(_shared(), _settings_without("seed", "finetuned", "pruning"), pl.col("finetune_family")),
            configuration=_key(
                _shared(),
                *[pl.col("pruning"), pl.col("pruning_applied")],
                *[_settings_without("seed", "finetuned"), pl.col("finetune_configuration")],
            ),
        )
    )


def _with_parts(results: Results) -> pl.LazyFrame:
    """The stages, with what the joules that count are made of and marked with."""
    return results.stages.join(metered(results.stages, results.energy), on="stage_id", how="left").with_columns(
        part_marks=that_count("marks"),
        price_currency=pl.col("currency").fill_null(""),
        device_label=_device(),
        gpu=pl.coalesce("gpu_kind", pl.when(pl.col("device") == "cuda").then("device_name")),
    )


def _starts_from_base() -> pl.Expr:
    """Nothing was fine-tuned. Where an older row does not say what it needs, its method must say so."""
    needs = pl.col("needs").list.len()
    return pl.when(needs.is_null()).then(pl.col("finetune_method").eq_missing("none")).otherwise(needs == 0)


def _finetunings(stages: pl.LazyFrame, energy: Energy) -> pl.LazyFrame:
    """Per inference stage, the stages it needs as one: joules are their sum, null if any is unknown."""
    _, joules = _JOULES[energy]
    finetunings = stages.select(
        needs="stage_id",
        finetune_energy_j=joules,
        finetune_carbon_g=_carbon_g(joules),
        finetune_cost=_cost(joules),
        finetune_kind="part_kind",
        finetune_currency="price_currency",
        finetune_marks="part_marks",
        finetune_devices="device_label",
        finetune_gpus="gpu",
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
            finetune_cost=_known_sum("finetune_cost"),
            finetune_kind=pl.col("finetune_kind").drop_nulls().unique(),
            finetune_currencies=pl.col("finetune_currency").drop_nulls().unique(),
            finetune_marks=pl.col("finetune_marks").list.explode().drop_nulls().unique().sort(),
            finetune_devices=pl.col("finetune_devices").drop_nulls().unique().sort(),
            finetune_gpus=pl.col("finetune_gpus").drop_nulls().unique(),
            finetune_family=pl.col("finetune_family").sort().str.join("|"),
            finetune_configuration=pl.col("finetune_configuration").sort().str.join("|"),
        )
        .with_columns(finetune_kind=all_of(pl.col("finetune_kind")))
    )


def _inference_faults(energy: Energy) -> list[pl.Expr]:
    return [_fault_of(f"{_WORD[energy]}energy per request", "inference_energy_j"), why_implausible("inference_marks")]


def _energy_faults(energy: Energy) -> list[pl.Expr]:
    faults = [
        _fault_of(f"{_WORD[energy]}energy of fine-tuning", "finetune_energy_j"),
        why_implausible("finetune_marks"),
    ]
    named = pl.col("needs").list.join(", ").fill_null("not named")
    return [
        *_inference_faults(energy),
        *(pl.when(~_starts_from_base()).then(pl.format("{} (fine-tuning {})", fault, named)) for fault in faults),
    ]


def _fault_of(name: str, column: str) -> pl.Expr:
    """What is wrong with an energy. Work takes energy: 0 J is a counter that did not move, not a saving."""
    value = pl.col(column)
    return (
        pl.when(value.is_null())
        .then(pl.lit(f"{name} is unknown"))
        .when(~value.is_finite() | (value <= 0))
        .then(pl.format(f"{name} is {{}} J", value))
    )


def _unless_any(column: str, reason: str) -> pl.Expr:
    return pl.when(pl.col(column).list.len().fill_null(0) == 0).then(pl.lit(reason))


def _gpus() -> pl.Expr:
    """Product name of the GPUs of an inference, and of its fine-tuning where they are others; null without any."""
    tuned = pl.col("finetune_gpus").list.sort().list.join(" and ").replace("", None)
    differs = tuned.is_not_null() & tuned.ne_missing(pl.col("gpu"))
    named = pl.format("{}, fine-tuned on {}", pl.col("gpu").fill_null(_UNKNOWN_GPU), tuned)
    return pl.when(differs).then(named).otherwise("gpu")


def _unless_on(gpu_kind: str) -> pl.Expr:
    """Other GPUs, or none that is known."""
    is_it = pl.element().str.to_lowercase().str.contains(gpu_kind.lower(), literal=True)
    kinds = pl.col("gpu_kinds")
    named = pl.col("gpu_kind").fill_null(_UNKNOWN_GPU)
    known = (kinds.list.len() > 0) & kinds.list.eval(is_it).list.all()
    return pl.when(~known).then(pl.format("was measured on {}, not on {}", named, pl.lit(gpu_kind)))


def _all_reasons(*reasons: str | pl.Expr) -> pl.Expr:
    return pl.concat_str(*reasons, separator="; ", ignore_nulls=True).replace("", None)


def _carbon_g(energy_j: str) -> pl.Expr:
    """PUE is in the factor already."""
    return pl.col(energy_j) * pl.col("carbon_g_per_kwh").fill_nan(None) / _J_PER_KWH


def _cost(energy_j: str) -> pl.Expr:
    """In the row's currency; the price is that of the meter, before PUE."""
    return pl.col(energy_j) * pl.col("price_per_kwh").fill_nan(None) * pl.col("pue").fill_nan(None) / _J_PER_KWH


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
