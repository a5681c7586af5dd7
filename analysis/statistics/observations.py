"""Finished stages as observations: what each was set to, and what came out."""

import json
from typing import Any, Final

import polars as pl

from analysis.candidates import candidates
from analysis.kinds import metered
from analysis.load import Results
from analysis.marks import that_count, why_implausible
from analysis.settings import data_of

FACTOR: Final = "factor: "
"""Columns of factors start so: a setting may be named as a quantity is."""

TUNING: Final = "tuning "
"""Factors that are settings of an inference's fine-tuning start so."""

_NOT_SETTINGS: Final = {
    *("kind", "seed", "finetuned", "gpu_kind"),
    *("model", "data", "tasks", "precision", "pruning", "finetune_method", "method", "finetune_precision"),
}
"""Top-level settings that are no factor, or one that a column of its own stands for."""

_SIZES: Final = ["batch_size", "sequence_length"]
"""Settings that are numbers of something: they are correlated, too."""

_UNMEASURABLE: Final = "unknown, or no possible value"


def inferences(results: Results, *, asked_only: bool = True) -> pl.DataFrame:
    """One row per finished inference stage.

    Returns:
        stage_id, configuration, seed, needs; `pool`, the origin of its joules; `simulated`; per response `energy`,
        `quality` and `seconds` the value, null if unknown, and `… fault`, why it cannot be used; factors; the
        quantities that are correlated, null where what ran says nothing about the pruning.
    """
    rows = (
        candidates(results, asked_only=asked_only)
        .with_columns(
            pool=pl.coalesce("made_of", "inference_kind"),
            simulated=_simulated(),
            energy="inference_energy_j",
            quality="rho",
            seconds="seconds_per_request",
        )
        .with_columns(
            _fault_of("energy", why_implausible("inference_marks")),
            _fault_of("seconds"),
            pl.when(pl.col("rho").is_null() | pl.col("quality_fault").is_not_null())
            .then(pl.lit("quality is missing or impossible"))
            .alias("quality fault"),
        )
        .sort("stage_id")
        .collect()
    )
    settings = _settings_of(rows)
    tuning = _settings_of(results.stages.filter(pl.col("kind") == "finetune").collect())
    needs = [(names or [None])[0] for names in rows["needs"].to_list()]
    of_tuning = [{TUNING + name: value for name, value in (tuning.get(need) or {}).items()} for need in needs]
    found = [
        None if (own := settings[stage]) is None else own | tuned
        for stage, tuned in zip(rows["stage_id"], of_tuning, strict=True)
    ]
    return _with_factors(rows, found).with_columns(**_quantities())


def finetunings(results: Results, *, asked_only: bool = True) -> pl.DataFrame:
    """One row per finished fine-tuning, with the joules of its windows as `tuning`; else as `inferences`."""
    stages = results.asked_stages() if asked_only else results.stages
    rows = (
        stages.filter(pl.col("kind") == "finetune")
        .join(metered(results.stages, results.energy), on="stage_id", how="left")
        .with_columns(
            pool=pl.coalesce("made_of", "part_kind"),
            simulated=_simulated(),
            tuning="energy_j",
            tuning_marks=that_count("marks"),
        )
        .with_columns(_fault_of("tuning", why_implausible("tuning_marks")))
        .sort("stage_id")
        .collect()
    )
    settings = _settings_of(rows)
    return _with_factors(rows, [settings[stage] for stage in rows["stage_id"]])


def _simulated() -> pl.Expr:
    """As the ranking has it: a pruned stage that does not say how it was realised counts as simulated."""
    return pl.col("realisation").str.contains("simulated").fill_null(pl.col("pruning").fill_null("none") != "none")


def _fault_of(name: str, *more: pl.Expr) -> pl.Expr:
    value = pl.col(name)
    impossible = value.is_null() | ~value.is_finite() | (value <= 0)
    return pl.coalesce(
        pl.when(impossible).then(pl.lit(f"{name} is {_UNMEASURABLE}")),
        *(pl.when(why.is_not_null()).then(pl.lit("windows are marked implausible")) for why in more),
    ).alias(f"{name} fault")


def _settings_of(stages: pl.DataFrame) -> dict[str, dict[str, str] | None]:
    """Scalar settings by stage, as text; None where a stage's settings cannot be read."""
    return dict(zip(stages["stage_id"], map(_scalars, stages["settings"]), strict=True))


def _scalars(text: str | None) -> dict[str, str] | None:
    try:
        settings = json.loads(text or "")
    except ValueError:
        return None
    if not isinstance(settings, dict):
        return None
    return {
        name: "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in settings.items()
        if name not in _NOT_SETTINGS and not isinstance(value, dict | list)
    }


def _with_factors(rows: pl.DataFrame, settings: list[dict[str, str] | None]) -> pl.DataFrame:
    """Factors as text, null where they are unknown or do not apply; `settings_fault` where settings are unreadable."""
    names = sorted({name for found in settings if found for name in found} | set(_SIZES))
    from_settings = [
        pl.Series(FACTOR + name, [(found or {}).get(name) for found in settings], pl.String) for name in names
    ]
    several = pl.col("model_revision").n_unique().over("model") > 1
    told = pl.when(several).then(pl.format("{}@{}", "model", pl.col("model_revision").fill_null("unknown")))
    columns: dict[str, Any] = {
        "model": told.otherwise("model"),
        **{name: pl.col(name) for name in ("precision", "pruning", "finetune_method", "finetune_precision")},
        "pruning_applied": pl.when(pl.col("pruning") != "none").then("pruning_applied"),
        "tasks": pl.col("tasks").list.sort().list.join(" + "),
        "device": pl.concat_str("device", "device_name", separator=" ", ignore_nulls=True).replace("", None),
        "workers": pl.col("workers").cast(pl.String),
        "sweep": pl.col("sweep"),
        "data": pl.col("settings").map_elements(data_of, return_dtype=pl.String),
    }
    return rows.with_columns(
        *from_settings,
        *(content.alias(FACTOR + name) for name, content in columns.items()),
        pl.Series("unreadable", [found is None for found in settings], pl.Boolean),
    )


def _quantities() -> dict[str, pl.Expr]:
    """What is correlated. Joules, seconds and watts of a simulated pruning are those of dense kernels: null."""
    ran = ~pl.col("simulated")
    usable = {name: pl.when(ran, pl.col(f"{name} fault").is_null()).then(name) for name in ("energy", "seconds")}
    sizes = {name: pl.col(FACTOR + name).cast(pl.Float64, strict=False) for name in _SIZES}
    return {
        "energy_j_per_request": usable["energy"],
        "rho": pl.when(pl.col("quality fault").is_null()).then("quality"),
        "seconds_per_request": usable["seconds"],
        "mean_power_w": usable["energy"] / usable["seconds"],
        "prompt_tokens_per_request": pl.col("prompt_tokens") / pl.col("prefill_requests"),
        "new_tokens_per_request": pl.col("new_tokens") / pl.col("decode_requests"),
        "sparsity_achieved": pl.col("sparsity_achieved"),
        "weight_bytes": pl.col("weight_bytes").cast(pl.Float64),
        **sizes,
    }
