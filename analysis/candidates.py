"""Finished inference stages as candidates for the ranking: each with its quality, its energy, or what is missing."""

from typing import Final, Literal

import polars as pl

from analysis.kinds import all_of, metered
from analysis.load import Results
from analysis.marks import that_count, why_implausible
from analysis.metrics import OF_FINETUNING, OF_INFERENCE, Metric, Need, fault_of, tokens_per_request
from analysis.printing import JOULES_PER_KWH
from analysis.quality import graded
from analysis.serving import seconds_per_request
from analysis.settings import settings_without

Energy = Literal["gross", "net"]
"""Joules as metered, or those beyond what the machines draw when idle."""

_JOULES: Final[dict[Energy, tuple[str, str]]] = {
    "gross": ("energy_j_per_request", "energy_j"),
    "net": ("energy_net_j_per_request", "energy_net_j"),
}
"""Columns of the stages table: of an inference per request, and of a fine-tuning."""

_WORD: Final[dict[Energy, str]] = {"gross": "", "net": "net "}

_UNKNOWN_GPU: Final = "no known GPU"

_SHARED: Final = ["model", "model_revision", "finetune_method", "finetune_precision", "precision", "gpu_kind"]
"""Columns that name a configuration together with its tasks, pruning and settings."""


_OF_SEEDS: Final = ["seed", "finetuned"]
"""Settings that differ between seeds: the seed, and which fine-tuning's weights an inference starts from."""


def candidates(
    results: Results,
    energy: Energy = "gross",
    *,
    metric: Metric = "request",
    asked_only: bool = True,
    gpu_kind: str | None = None,
) -> pl.LazyFrame:
    """One row per finished inference stage; `asked_only`: of those that the plan asks for.

    `metric` is what is to be ranked by: what it cannot be calculated for cannot be ranked. `gpu_kind` is part of a
    product name: what was measured on other GPUs cannot be ranked then.

    Columns, beside those of the stages table:
        rho, quality, correct_per_request, accuracies, examples: as `analysis.quality.graded` has them.
        inference_energy_j: joules of prefill and decode per request.
        finetune_energy_j: joules of the fine-tuning it serves; 0 for a base model.
        tokens_per_request: prompt tokens processed and tokens generated; null if unknown.
        seconds_per_request: of its prefill and decode windows; null if unknown.
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
    graded_stages = stages.join(graded(stages, results.quality), on="stage_id", how="left").with_columns(
        reason=_all_reasons(
            "quality_fault",
            _unless_any("tasks", "it names no task"),
            *_energy_faults(energy, metric),
            *([] if gpu_kind is None else [_unless_on(gpu_kind)]),
        )
    )
    return graded_stages.with_columns(reason=_unless_ever_correct()) if metric == "correct" else graded_stages


def dense_stages(results: Results, energy: Energy = "gross", *, metric: Metric = "request") -> pl.LazyFrame:
    """Finished inference stages without pruning whose inference energy is sound, and known in terms of the metric.

    Planned or not, whatever their quality. Columns as those of `candidates`, but for what quality tells.
    """
    sound = pl.all_horizontal(fault.is_null() for fault in _inference_faults(energy, metric))
    return _metered(results, energy).filter(pl.col("pruning") == "none", sound)


def dense_parents(results: Results, energy: Energy = "gross", *, metric: Metric = "request") -> pl.LazyFrame:
    """Inference energy per family without pruning, as the mean over seeds."""
    return (
        dense_stages(results, energy, metric=metric)
        .group_by("family")
        .agg(
            parent_energy_j=pl.mean("inference_energy_j"),
            parent_tokens_per_request=known_mean("tokens_per_request"),
            parent_seconds_per_request=known_mean("seconds_per_request"),
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
    return results.once(f"{energy} energy of inferences", lambda: _inferences(results, energy))


def _inferences(results: Results, energy: Energy) -> pl.LazyFrame:
    trained = ~_starts_from_base()
    joules, _ = _JOULES[energy]
    stages = results.once("parts of stages", lambda: _with_parts(results))
    return (
        stages.filter(pl.col("kind") == "inference")
        .with_columns(_needed())
        .join(_finetunings(stages, energy), on="needed", how="left", nulls_equal=True)
        .join(seconds_per_request(results.stages, results.windows), on="stage_id", how="left")
        .with_columns(
            inference_energy_j=joules,
            tokens_per_request=tokens_per_request(),
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
            family=_key(_shared(), pl.col("kin_settings"), pl.col("finetune_family")),
            configuration=_key(
                _shared(),
                *[pl.col("pruning"), pl.col("pruning_applied")],
                *[pl.col("own_settings"), pl.col("finetune_configuration")],
            ),
        )
        .drop("own_settings", "kin_settings")
    )


def _with_parts(results: Results) -> pl.LazyFrame:
    """The stages, with what the joules that count are made of and marked with.

    `own_settings` are the same for all seeds, and `kin_settings` for all prunings too.
    """
    return (
        results.stages.join(metered(results.stages, results.windows), on="stage_id", how="left")
        .with_columns(
            part_marks=that_count("marks"),
            price_currency=pl.col("currency").fill_null(""),
            device_label=_device(),
            gpu=pl.coalesce("gpu_kind", pl.when(pl.col("device") == "cuda").then("device_name")),
        )
        .with_columns(settings_without(own_settings=_OF_SEEDS, kin_settings=[*_OF_SEEDS, "pruning"]))
    )


def _starts_from_base() -> pl.Expr:
    """Nothing was fine-tuned. Where an older row does not say what it needs, its method must say so."""
    needs = pl.col("needs").list.len()
    return pl.when(needs.is_null()).then(pl.col("finetune_method").eq_missing("none")).otherwise(needs == 0)


def _needed() -> pl.Expr:
    """Many inferences start from the same fine-tuning."""
    return pl.col("needs").list.join(" ").alias("needed")


def _finetunings(stages: pl.LazyFrame, energy: Energy) -> pl.LazyFrame:
    """What inference stages need, as one per `needed`: joules are their sum, null if any is unknown."""
    _, joules = _JOULES[energy]
    needs = stages.filter(pl.col("kind") == "inference").select(_needed(), "needs").unique("needed").explode("needs")
    finetunings = stages.join(needs, left_on="stage_id", right_on="needs", how="semi").select(
        needs="stage_id",
        finetune_energy_j=joules,
        finetune_carbon_g=_carbon_g(joules),
        finetune_cost=_cost(joules),
        finetune_kind="part_kind",
        finetune_currency="price_currency",
        finetune_marks="part_marks",
        finetune_devices="device_label",
        finetune_gpus="gpu",
        finetune_family="kin_settings",
        finetune_configuration="own_settings",
    )
    return (
        needs.join(finetunings, on="needs", how="left")
        .group_by("needed")
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


def _inference_faults(energy: Energy, metric: Metric) -> list[pl.Expr]:
    joules = Need(f"{_WORD[energy]}energy per request", "J", "inference_energy_j")
    needs = [joules, *([OF_INFERENCE[metric]] if metric in OF_INFERENCE else [])]
    return [*map(fault_of, needs), why_implausible("inference_marks")]


def _energy_faults(energy: Energy, metric: Metric) -> list[pl.Expr]:
    joules = Need(f"{_WORD[energy]}energy of fine-tuning", "J", "finetune_energy_j")
    needs = [joules, *([OF_FINETUNING[metric]] if metric in OF_FINETUNING else [])]
    faults = [*map(fault_of, needs), why_implausible("finetune_marks")]
    named = pl.col("needs").list.join(", ").fill_null("not named")
    return [
        *_inference_faults(energy, metric),
        *(pl.when(~_starts_from_base()).then(pl.format("{} (fine-tuning {})", fault, named)) for fault in faults),
    ]


def _unless_ever_correct() -> pl.Expr:
    """Why there are no joules per correct answer. A seed that has none right counts with those that have some."""
    correct = pl.col("correct_per_request")
    in_all = correct.filter(pl.col("reason").is_null()).sum().over("configuration")
    return (
        pl.when(pl.col("reason").is_not_null())
        .then("reason")
        .when(correct.is_null())
        .then(pl.lit("energy per correct answer is unknown: none of its tasks has an accuracy"))
        .when(in_all == 0)
        .then(pl.lit("energy per correct answer has no bound: no answer is correct"))
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
    return pl.col(energy_j) * pl.col("carbon_g_per_kwh").fill_nan(None) / JOULES_PER_KWH


def _cost(energy_j: str) -> pl.Expr:
    """In the row's currency; the price is that of the meter, before PUE."""
    return pl.col(energy_j) * pl.col("price_per_kwh").fill_nan(None) * pl.col("pue").fill_nan(None) / JOULES_PER_KWH


def _device() -> pl.Expr:
    return pl.concat_str("device", "device_name", separator=" ", ignore_nulls=True).replace("", "unknown device")


def _shared() -> pl.Expr:
    return _key(*map(pl.col, _SHARED), pl.col("tasks").list.sort().list.join(","))


def _key(*parts: pl.Expr) -> pl.Expr:
    return pl.concat_str([part.fill_null("") for part in parts], separator="|")
