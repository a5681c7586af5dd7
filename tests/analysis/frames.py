"""Results that lie in memory only, for tests that need many of them or large ones."""

from pathlib import Path
from typing import Any

import polars as pl

from analysis.load import Results
from analysis.schema import schema
from energyaware.rows import COLUMNS, Row

QUALITY: dict[str, dict[str, float | None]] = {"root_cause": {"accuracy": 0.8}}


def results_of(**tables: list[Row]) -> Results:
    """Results of these rows; all that is finished counts as asked for."""
    frames = {
        name: pl.DataFrame(tables.get(name, []), schema=schema(name), strict=False, orient="row").lazy()
        for name in COLUMNS
    }
    return Results(folder=Path("memory"), has_plan=bool(tables.get("plan")), held_by=None, problems=[], **frames)


def finetuning(stage_id: str = "ft", energy_j: float | None = 1000.0, **more: Any) -> Row:
    """A finished fine-tuning."""
    return _stage(stage_id, "finetune") | {"energy_j": energy_j, "needs": []} | more


def inference(
    stage_id: str, energy: float | None = 1.0, *, needs: str | None = None, seed: int | None = 0, **more: Any
) -> Row:
    """A finished inference of `energy` joules per request: 10 requests of 50 prompt and 14 generated tokens."""
    row = _stage(stage_id, "inference") | {"energy_j_per_request": energy, "seed": seed}
    row |= {"needs": [needs] if needs else [], "finetune_method": "lora" if needs else "none"}
    row |= {"prefill_requests": 10, "prompt_tokens": 500, "decode_requests": 10, "new_tokens": 140}
    return row | {"realisation": "none", "tasks": list(QUALITY)} | more


def grades(stage_id: str, quality: dict[str, dict[str, float | None]], examples: int | None = 100) -> list[Row]:
    """Rows of the quality table, by task and metric."""
    return [
        {"stage_id": stage_id, "attempt": 1, "task": task, "metric": metric, "value": value, "examples": examples}
        for task, metrics in quality.items()
        for metric, value in metrics.items()
    ]


def window(stage_id: str, name: str, energy_j: float | None, **more: Any) -> Row:
    """A row of the energy table: 10 requests in 20 s."""
    row = {"run": "r", "node": "n", "stage_id": stage_id, "attempt": 1, "window": name, "component": "gpu"}
    return row | {"energy_j": energy_j, "duration_s": 20.0, "requests": 10, "measured": True, "repeat": 1} | more


def _stage(stage_id: str, kind: str) -> Row:
    row = {"stage_id": stage_id, "kind": kind, "state": "finished", "attempt": 1, "seed": 0, "model": "tiny"}
    row |= {"model_revision": "r1", "finetune_method": "lora", "precision": "bf16", "pruning": "none"}
    return row | {"measured": True, "energy_kind": "measured", "device": "cuda", "device_name": "H200"}
