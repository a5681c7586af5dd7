"""Synthetic results folders of any size, as a sweep and `energyaware compact` leave them. All figures are made up.

A grid of models x precisions x prunings x seeds: one fine-tuning per model, precision and seed, and one inference of it
per pruning. Each stage has one attempt or, one in ten, an interrupted one before it, and its windows on all nodes and
components: 3 epochs of a fine-tuning, 3 repeats of prefill and decode of an inference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from ranking_files import write, write_merged

PRECISIONS: Final = ["fp32", "bf16", "int8", "nf4", "fp8"]
KINDS: Final = ["magnitude", "wanda", "sparsegpt", "heads", "neurons", "layers"]
STRUCTURED: Final = {"heads", "neurons", "layers"}
TASKS: Final = {"root_cause": ["accuracy", "macro_f1"], "response": ["rouge_l", "bleu"]}
REPEATS: Final = 3
REQUESTS: Final = 256
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
AT_ONCE: Final = 2000
"""Stages whose windows are made together."""


@dataclass(frozen=True)
class Size:
    """How large a set is. `energy_rows` is about what comes of it."""

    energy_rows: int
    models: int
    precisions: int
    prunings: int
    seeds: int
    nodes: int
    gpus: int


SIZES: Final = [
    Size(1_000, models=1, precisions=5, prunings=8, seeds=1, nodes=1, gpus=1),
    Size(100_000, models=2, precisions=5, prunings=45, seeds=5, nodes=1, gpus=4),
    Size(1_000_000, models=2, precisions=5, prunings=31, seeds=10, nodes=4, gpus=8),
    Size(10_000_000, models=8, precisions=5, prunings=88, seeds=10, nodes=4, gpus=8),
]


def size_of(energy_rows: int) -> Size:
    """The size with about as many rows of energy.

    Raises:
        SystemExit: there is none.
    """
    for size in SIZES:
        if size.energy_rows == energy_rows:
            return size
    raise SystemExit(f"no set of {energy_rows} rows: one of {', '.join(str(size.energy_rows) for size in SIZES)}")


def write_set(folder: Path, size: Size, seed: int = 0) -> int:
    """Write a results folder. Returns the number of rows of its energy table."""
    random = np.random.default_rng(seed)
    stages = _stages(size, random)
    write(folder / "plan.parquet", "plan", stages.with_columns(state=pl.lit("planned"), reason=None))
    attempts = _attempts(stages)
    rows = 0
    totals = []
    for part, windows in enumerate(_windows(stages, attempts, size, random)):
        totals.append(_totals(windows))
        rows += windows.height
        write_merged(folder / "energy", "energy", windows, part)
    stages = stages.join(pl.concat(totals), on="stage_id", how="left")
    for kind in ("finetune", "inference"):
        write_merged(folder / "stages" / kind, "stages", stages.filter(kind=kind))
    write_merged(folder / "attempts", "attempts", attempts)
    write_merged(folder / "quality", "quality", _quality(stages, random))
    return rows


def _stages(size: Size, random: np.random.Generator) -> pl.DataFrame:
    rows = []
    for model in range(size.models):
        for precision in PRECISIONS[: size.precisions]:
            for seed in range(size.seeds):
                tuned = _stage("finetune", model, precision, _pruning(0), seed, None)
                rows.append(tuned)
                rows += [
                    _stage("inference", model, precision, _pruning(number), seed, str(tuned["stage_id"]))
                    for number in range(size.prunings)
                ]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    again = random.random(frame.height) < 0.1
    minutes = pl.int_range(pl.len()) * 5
    return (
        frame.with_columns(again=pl.Series(again))
        .with_columns(
            attempt=1 + pl.col("again").cast(pl.Int64),
            carried_attempts=(pl.col("again") & (pl.col("kind") == "finetune")).cast(pl.Int64),
            started_at=pl.lit(START) + pl.duration(minutes=minutes),
            finished_at=pl.lit(START) + pl.duration(minutes=minutes + 4),
            nodes=pl.lit([f"node{number}" for number in range(size.nodes)]),
        )
        .sort("stage_id")
    )


def _pruning(number: int) -> dict[str, Any]:
    """The dense one first, then every kind at ever more sparsities."""
    if not number:
        return {"applied": None, "calibration": None, "kind": "none", "pattern": "unstructured", "sparsity": 0.0}
    kind = KINDS[(number - 1) % len(KINDS)]
    return {
        "applied": "after",
        "calibration": {"data": None, "examples": 128} if kind in {"wanda", "sparsegpt"} else None,
        "kind": kind,
        "pattern": "structured" if kind in STRUCTURED else "unstructured",
        "sparsity": 0.05 * (1 + (number - 1) // len(KINDS)),
    }


def _stage(
    kind: str, model: int, precision: str, pruning: dict[str, Any], seed: int, finetuned: str | None
) -> dict[str, Any]:
    name = f"model-{model}"
    settings: dict[str, Any] = {
        "kind": kind,
        "model": {"kind": "hub", "name": name, "revision": "d04e592bb4f6", "trust_remote_code": False},
        "data": {"columns": [], "kind": "builtin", "name": "tickets", "revision": "bdad404faaf4"},
        "precision": precision,
        "protocol": 3,
        "pruning": pruning | {"overrides": [], "realisation": "auto"},
        "seed": seed,
        "sequence_length": 512,
        "tasks": list(TASKS),
    }
    if kind == "finetune":
        settings |= {"batch_size": 32, "epochs": 3, "learning_rate": 0.0002, "lora_alpha": 32.0, "lora_dropout": 0.0}
        settings |= {"lora_rank": 16, "method": "lora", "steps": None, "warmup": 0.05, "weight_decay": 0.0}
    else:
        settings |= {"batch_size": 16, "finetune_method": "lora", "finetune_precision": precision}
        settings |= {"finetuned": finetuned, "max_new_tokens": 64, "min_window_s": 5.0, "repeats": REPEATS}
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    dense = pruning["kind"] == "none"
    label = "none" if dense else f"{pruning['kind']}-{100 * pruning['sparsity']:.0f}%"
    return {
        "stage_id": hashlib.sha256(text.encode()).hexdigest()[:12],
        "kind": kind,
        "state": "finished",
        "sweep": "synthetic",
        "needs": [finetuned] if finetuned else [],
        "model": name,
        "model_revision": "d04e592bb4f6",
        "model_family": "llama",
        "tasks": list(TASKS),
        "finetune_method": "lora",
        "finetune_precision": precision,
        "precision": precision,
        "pruning": label,
        "pruning_applied": pruning["applied"],
        "seed": seed,
        "gpu_kind": "Synthetic GPU",
        "settings": text,
        "realisation": "none" if dense else "physical" if pruning["kind"] in STRUCTURED else "simulated",
        "carbon_g_per_kwh": 380.0,
        "carbon_source": "synthetic",
        "pue": 1.2,
        "price_per_kwh": 0.25,
        "currency": "EUR",
        "duration_s": 240.0,
        "device": "cuda",
        "device_name": "Synthetic GPU",
        "marks": [],
    }


def _attempts(stages: pl.DataFrame) -> pl.DataFrame:
    """Of each stage the one that finished it, and the one before."""
    finished = stages.with_columns(kept=True)
    before = stages.filter("again").with_columns(
        attempt=pl.lit(1, pl.Int64),
        state=pl.lit("interrupted"),
        kept=False,
        started_at=pl.col("started_at") - timedelta(minutes=4),
    )
    return pl.concat([finished, before]).sort("stage_id", "attempt")


def _windows(
    stages: pl.DataFrame, attempts: pl.DataFrame, size: Size, random: np.random.Generator
) -> Iterator[pl.DataFrame]:
    """Rows of the energy table, some stages at a time, in the order of the files that they were merged from."""
    channels = pl.DataFrame(
        [
            {"node": f"node{node}", "component": component, "device": device, "measured": component != "dram"}
            for node in range(size.nodes)
            for component, device in [
                ("cpu", None),
                ("dram", None),
                *(("gpu", f"GPU-{node:04x}-{gpu:04x}-5f1c-8d0e-91ab3c7de210") for gpu in range(size.gpus)),
            ]
        ]
    )
    of_kind = pl.DataFrame(
        [
            *({"kind": "finetune", "window": "train", "epoch": epoch} for epoch in (1, 2, 3)),
            *({"kind": "finetune", "window": "evaluate", "epoch": epoch} for epoch in (1, 2, 3)),
            *({"kind": kind, "window": "other"} for kind in ("finetune", "inference")),
            {"kind": "finetune", "window": "checkpoint"},
            *(
                {"kind": "inference", "window": window, "repeat": repeat, "requests": REQUESTS}
                for window in ("prefill", "decode")
                for repeat in range(1, REPEATS + 1)
            ),
        ],
        schema_overrides={"epoch": pl.Int64, "repeat": pl.Int64, "requests": pl.Int64},
    ).with_columns(place=pl.int_range(pl.len()).over("kind"))
    tried = attempts.select("stage_id", "attempt", "kind", "state", "kept", "started_at")
    for start in range(0, stages.height, AT_ONCE):
        frame = (
            stages.slice(start, AT_ONCE)
            .select("stage_id", "carried_attempts")
            .join(tried, on="stage_id", maintain_order="left_right")
            .join(of_kind, on="kind", maintain_order="left_right")
            .filter((pl.col("state") == "finished") | (pl.col("place") < 2))
            .join(channels, how="cross", maintain_order="left_right")
        )
        duration_s = 20 + 5 * random.random(frame.height)
        power_w = np.where(frame["component"] == "gpu", 400, 90) * (0.5 + 0.5 * random.random(frame.height))
        yield frame.with_columns(
            kept=pl.col("kept") | (pl.col("carried_attempts") > 0),
            started_at=pl.col("started_at") + pl.duration(seconds=30 * pl.col("place")),
            duration_s=pl.Series(duration_s),
            power_w=pl.Series(power_w),
            run=pl.lit("20260101T000000-synthetic"),
            source=pl.when(pl.col("component") == "gpu")
            .then(pl.lit("nvml energy counter"))
            .when("measured")
            .then(pl.lit("rapl"))
            .otherwise(pl.lit("codecarbon dram model")),
            marks=pl.lit([], pl.List(pl.String)),
            temperature_c=pl.when(pl.col("component") == "gpu").then(60.0 + pl.Series(power_w) / 40),
        ).with_columns(
            energy_j=pl.col("power_w") * pl.col("duration_s"),
            energy_net_j=(pl.col("power_w") - 30) * pl.col("duration_s"),
            carbon_g=pl.col("power_w") * pl.col("duration_s") * 380 / 3.6e6,
            cost=pl.col("power_w") * pl.col("duration_s") * 0.3 / 3.6e6,
        )


def _totals(windows: pl.DataFrame) -> pl.DataFrame:
    """What a stage's row holds of its windows."""
    around = pl.col("window").is_in(["other", "checkpoint"])
    serving = pl.col("window").is_in(["prefill", "decode"])
    per_request = {
        f"{name}_per_request": pl.col(name).filter(serving).sum() / (REPEATS * REQUESTS)
        for name in ("energy_j", "energy_net_j")
    }
    of_inference = pl.col("kind") == "inference"
    return (
        windows.filter("kept")
        .group_by("stage_id")
        .agg(
            pl.first("kind"),
            *(pl.col(name).filter(~around).sum() for name in ("energy_j", "energy_net_j", "carbon_g", "cost")),
            energy_other_j=pl.col("energy_j").filter(around).sum(),
            energy_measured_j=pl.col("energy_j").filter(~around & pl.col("measured")).sum(),
            energy_estimated_j=pl.col("energy_j").filter(~around & ~pl.col("measured")).sum(),
            energy_kind=pl.lit("mixed"),
            measured=pl.col("measured").all(),
            **per_request,
        )
        .with_columns(pl.when(of_inference).then(name).alias(name) for name in per_request)
        .drop("kind")
    )


def _quality(stages: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    metrics = pl.DataFrame([{"task": task, "metric": metric} for task, metrics in TASKS.items() for metric in metrics])
    frame = stages.filter(kind="inference").select("stage_id", "attempt").join(metrics, how="cross")
    return frame.with_columns(value=pl.Series(random.random(frame.height)), examples=512)
