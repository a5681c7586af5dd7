"""Small results folders, written row by row as a sweep would write them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from analysis import Results, load
from energyaware.arrow import SCHEMAS, to_table
from energyaware.rows import SCHEMA_VERSION, Row

START = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = {"root_cause": {"accuracy": 0.8}}

Quality = dict[str, dict[str, float | None]]


def write(file: Path, table: str, *content: Row) -> Path:
    """Write one Parquet file of our tables."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(to_table(table, list(content)), file)
    return file


@dataclass
class Lab:
    """A results folder in the making. `planned=False` leaves the plan out."""

    folder: Path
    planned: bool = True
    plan: list[Row] = field(default_factory=list)

    def finetune(self, stage_id: str = "ft", *, energy_j: float | None = 1000.0, run: bool = True, **more: Any) -> str:
        """A fine-tuning that finished (or, `run=False`, one that is only planned)."""
        row = _configuration(stage_id, "finetune", more) | {"needs": [], "energy_j": energy_j}
        return self._add(row | _parts(row | more) | more, run)

    def inference(
        self,
        stage_id: str,
        *,
        energy: float | None = 1.0,
        quality: Quality = GOOD,
        needs: str | None = "ft",
        run: bool = True,
        **more: Any,
    ) -> str:
        """An inference that finished, with `energy` joules per request."""
        row = _configuration(stage_id, "inference", {"tasks": sorted(quality), **more, "finetuned": needs})
        row |= {"needs": [needs] if needs else [], "energy_j_per_request": energy, "requests": 10}
        row |= {"energy_j": None if energy is None else 10 * energy, "realisation": _realisation(row)}
        row |= _parts(row | more) | more
        if run:
            graded = [
                {"stage_id": stage_id, "attempt": row["attempt"], "task": task, "metric": metric, "value": value}
                for task, metrics in quality.items()
                for metric, value in metrics.items()
            ]
            write(self.folder / "quality" / f"{stage_id}-{row['attempt']}.parquet", "quality", *graded)
        return self._add(row, run)

    def attempt(self, stage_id: str, state: str, attempt: int = 1, **more: Any) -> None:
        """An attempt at a stage."""
        planned = next((row for row in self.plan if row["stage_id"] == stage_id), {})
        row = {"stage_id": stage_id, "attempt": attempt, "state": state, "kept": state == "finished"} | _times(attempt)
        row |= {"kind": planned.get("kind"), "energy_j": 5.0, "measured": True, "settings": planned.get("settings")}
        row |= _parts(row | more)
        write(self.folder / "attempts" / f"{stage_id}-{attempt}.parquet", "attempts", row | more)

    def energy(self, stage_id: str | None, *rows: Row, attempt: int | None = 1) -> None:
        """Rows of the energy table, of an attempt or of none."""
        write(
            self.folder / "energy" / f"{stage_id}-{attempt}.parquet",
            "energy",
            *(window(**{"stage_id": stage_id, "attempt": attempt} | row) for row in rows),
        )

    def node(self, node: str, component: str, energy_j: float | None, *parts: float | None, **more: Any) -> None:
        """A row of the nodes table: joules, and those of stages, idle and unattributed."""
        row = node_row(node, component, energy_j, *parts, **more)
        write(self.folder / "nodes" / f"{row['run']}-{node}-{component}.parquet", "nodes", row)

    def ledger(
        self,
        *attempts: Row,
        node: str = "n1",
        age_s: float = 0.0,
        energy: Sequence[Row] = (),
        nodes: Sequence[Row] = (),
        **more: Any,
    ) -> Path:
        """The ledger of a node, as its meter left it `age_s` seconds ago."""
        content = {"schema_version": SCHEMA_VERSION, "run": "r1", "sweep": "s", "node": node, "heartbeat_s": 2.0}
        content |= {"written_at": datetime.now(UTC) - timedelta(seconds=age_s)}
        content |= {"attempts": list(attempts), "energy": [row | {"node": node} for row in energy]}
        content |= {"nodes": list(nodes)} | more
        file = self.folder / "ledger" / f"{content['run']}-{node}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, default=datetime.isoformat))
        return file

    def lease(self, number: int = 1, *, age_s: float = 0.0, **more: Any) -> Path:
        """A lease on the folder, whose holder gave its last sign of life `age_s` seconds ago."""
        now = datetime.now(UTC)
        content = {"host": "node1", "pid": 123, "user": "ann", "command": "energyaware run x.yaml", "released": False}
        content |= {"started_at": START, "beat_at": now - timedelta(seconds=age_s)} | more
        file = self.folder / "lease" / f"{number:06d}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, default=datetime.isoformat))
        return file

    def infeasible(self, stage_id: str, reason: str) -> None:
        """Mark a planned stage as one that cannot run here."""
        for row in self.plan:
            if row["stage_id"] == stage_id:
                row |= {"state": "infeasible", "reason": reason}

    def results(self) -> Results:
        """The folder, loaded."""
        if self.planned:
            write(self.folder / "plan.parquet", "plan", *self.plan)
        return load(self.folder)

    def _add(self, row: Row, run: bool) -> str:
        self.plan.append({name: row[name] for name in SCHEMAS["plan"].names if name in row} | {"state": "planned"})
        if run:
            file = self.folder / "stages" / row["kind"] / f"{row['stage_id']}.parquet"
            write(
                file, "stages", {"state": "finished", **{k: v for k, v in row.items() if k in SCHEMAS["stages"].names}}
            )
        return str(row["stage_id"])


def window(**columns: Any) -> Row:
    """A row of the energy table."""
    row = {"run": "r1", "node": "n1", "stage_id": None, "attempt": None, "window": "decode", "component": "cpu"}
    row |= {"energy_j": 1.0, "measured": True, "kept": False, "marks": [], "started_at": START}
    return row | columns


def node_row(node: str, component: str, energy_j: float | None, *parts: float | None, **more: Any) -> Row:
    """A row of the nodes table."""
    row = {"run": "r1", "node": node, "component": component, "energy_j": energy_j, "measured": True}
    row |= dict(zip(("stages_j", "idle_j", "unattributed_j"), parts, strict=True))
    return row | {"started_at": START} | more


def tried(stage_id: str, attempt: int = 1, **more: Any) -> Row:
    """An attempt as a ledger lists it."""
    row = {"stage_id": stage_id, "attempt": attempt, "kind": "inference", "settings": "{}", "workers": 1}
    return row | {"nodes": ["n1"], "started_at": START} | more


def _parts(row: Row) -> Row:
    """The kind of a row's joules, which are measured as a whole or not at all."""
    energy_j, measured = row["energy_j"], row["measured"]
    kind = {True: "measured", False: "estimated", None: None}[measured]
    if energy_j is None or measured is None:
        return {"energy_kind": kind, "energy_other_j": 0.0}
    return {
        "energy_kind": kind,
        "energy_other_j": 0.0,
        "energy_measured_j": energy_j if measured else 0.0,
        "energy_estimated_j": 0.0 if measured else energy_j,
    }


def _configuration(stage_id: str, kind: str, more: dict[str, Any]) -> Row:
    row = {
        "stage_id": stage_id,
        "kind": kind,
        "attempt": 1,
        "model": "tiny",
        "model_revision": "r1",
        "tasks": ["root_cause"],
        "finetune_method": "none" if more.get("finetuned", "") is None else "lora",
        "finetune_precision": "bf16",
        "precision": "bf16",
        "pruning": "none",
        "pruning_applied": None,
        "seed": 0,
        "measured": True,
        "device": "cuda",
        "device_name": "H200",
        "carbon_g_per_kwh": 360.0,
        **_times(1),
    }
    row |= {name: value for name, value in more.items() if name in row}
    pruning = {"kind": row["pruning"], "applied": row["pruning_applied"]}
    settings = {"kind": kind, "model": {"name": row["model"]}, "seed": row["seed"], "precision": row["precision"]}
    settings |= {"pruning": pruning} | ({"finetuned": more["finetuned"]} if kind == "inference" else {})
    return row | {"settings": json.dumps(settings, sort_keys=True, separators=(",", ":"))}


def _times(attempt: int) -> Row:
    started = START + timedelta(minutes=attempt)
    return {"started_at": started, "finished_at": started + timedelta(seconds=10), "duration_s": 10.0}


def _realisation(row: Row) -> str:
    return "none" if row["pruning"] == "none" else "physical"
