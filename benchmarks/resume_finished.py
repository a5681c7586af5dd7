"""How long `energyaware run` takes on a sweep of 1,000 stages that are all finished, as a whole process.

The results are written by the store itself, one file per stage, attempt, and windows of each, as a sweep leaves them;
no stage is run, and the figures in the rows are made up. Measured before and after `energyaware compact`. Nothing is
compared with a peer: what a run does then is to read, to rank, and to end.

    .venv/bin/python benchmarks/resume_finished.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from environment import provenance, spread

from energyaware.precision import Hardware
from energyaware.store import Store
from energyaware.versions import versions
from sweep.plan import PlannedStage, configuration_columns, make_plan
from sweep.sweep_file import load

SEEDS_PER_STAGE: Final = 2
"""A seed makes one fine-tuning and one inference."""

ASKED: Final = "precisions: [fp32]\nprunings: [none]\nresources: {device: cpu}\nseeds: [%s]\n"


def write(store: Store, stage: PlannedStage, started_at: datetime) -> None:
    """A finished stage, as `sweep.record` writes it."""
    name = f"{stage.stage_id}-1"
    common = {"stage_id": stage.stage_id, "attempt": 1, "started_at": started_at}
    windows = ("train", "evaluate", "other") if stage.spec.kind == "finetune" else ("prefill", "decode", "other")
    totals = {"energy_j": 20.0, "energy_other_j": 10.0, "energy_kind": "estimated", "measured": False, "marks": []}
    row: dict[str, Any] = {**common, **totals, "kind": stage.spec.kind, "state": "finished"}
    energy = [
        {**common, "run": "r", "node": "n", "window": window, "component": component, "energy_j": 5.0, "kept": True}
        | {"measured": False, "marks": [], "duration_s": 1.0}
        for window in windows
        for component in ("cpu", "dram")
    ]
    store.write_rows("energy", name, energy)
    store.write_rows("attempts", name, [row | {"duration_s": 1.0, "kept": True}])
    if stage.spec.kind == "inference":
        quality = {"task": "root_cause", "metric": "accuracy", "value": 0.9, "examples": 100}
        store.write_rows("quality", name, [{"stage_id": stage.stage_id, "attempt": 1} | quality])
        row |= {"energy_j_per_request": 0.5}
    configuration = configuration_columns(stage.spec)
    store.commit_stage(row | configuration | {"versions": json.dumps(versions()), "device": "cpu", "workers": 1})


def run_again(file: Path, results: Path) -> float:
    """Seconds of one whole `energyaware run`."""
    command = [str(Path(sys.executable).with_name("energyaware")), "run", str(file), "--results", str(results)]
    began_s = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if "0 to run" not in done.stderr:
        raise SystemExit(done.stderr)
    return time.perf_counter() - began_s


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file, results = Path(folder) / "s.yaml", Path(folder) / "results"
        file.write_text(ASKED % ", ".join(map(str, range(chosen.stages // SEEDS_PER_STAGE))))
        store, plan = Store(results), make_plan(load(file), Hardware("cpu", None))
        store.create()
        began = datetime.now(UTC) - timedelta(days=1)
        for number, stage in enumerate(plan):
            write(store, stage, began + timedelta(seconds=number))
        first_s = run_again(file, results)
        alone = [run_again(file, results) for _ in range(chosen.runs)]
        compact = [str(Path(sys.executable).with_name("energyaware")), "compact", str(results)]
        subprocess.run(compact, capture_output=True, check=True)
        compacted = [run_again(file, results) for _ in range(chosen.runs)]
    report = provenance("resume_finished", "polars", "pyarrow") | {
        "stages": len(plan),
        "first_s": round(first_s, 3),
        "one_file_each_s": spread(alone),
        "compacted_s": spread(compacted),
    }
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"resume_finished-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{len(plan)} finished stages, {chosen.runs} runs each, seconds of the whole command:")
    for name in ("one_file_each_s", "compacted_s"):
        figures = report[name]
        print(f"  {name:<16} median {figures['median']:.2f}  {figures['min']:.2f} to {figures['max']:.2f}")


if __name__ == "__main__":
    main()
