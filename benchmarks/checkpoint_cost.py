"""What checkpoints take of the training time, at the default rule and at others.

The fp32 fine-tuning of examples/quickstart.yaml, with real ranks of a warm gang: the built-in model, the synthetic
tickets, LoRA, two workers. Time is that of the first rank's `train` and `checkpoint` windows, each of which lies
between two barriers.

    .venv/bin/python benchmarks/checkpoint_cost.py
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import ray
from environment import provenance, spread
from rich.console import Console
from rich.table import Table

from cluster.connect import join
from cluster.gang import Gang, Rank, WorkerResources
from energyaware.checkpoints import CheckpointRule, Keeping
from energyaware.energy.base import Work
from energyaware.energy.windows import synchronise
from energyaware.precision import Hardware
from energyaware.spec import FinetuneSpec, stage_id
from energyaware.stage import run_stage, warm_up
from energyaware.store import Store
from sweep.plan import make_plan
from sweep.sweep_file import load

QUICKSTART: Final = Path(__file__).parents[1] / "examples" / "quickstart.yaml"

MOST: Final = 0.05
"""Of the training time, at the default rule."""

RULES: Final = {"default": CheckpointRule(), "every 10 steps": CheckpointRule(every_steps=10)}


class Stopwatch:
    """A meter of seconds: the length of every window, by its name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"train": [], "checkpoint": []}

    @contextmanager
    def window(self, name: str, **about: Any) -> Iterator[Work]:
        synchronise()
        began_s = time.perf_counter()
        yield Work()
        synchronise()
        self.seconds.setdefault(name, []).append(time.perf_counter() - began_s)


def timed(name: str, spec: FinetuneSpec, rank: Rank, store: Store, keeping: Keeping) -> dict[str, list[float]]:
    """Seconds of the windows of one fine-tuning, as one rank sees them."""
    watch = Stopwatch()
    run_stage(name, spec, rank, watch, store, keeping)  # type: ignore[arg-type]
    return watch.seconds


def quickstart() -> tuple[FinetuneSpec, int]:
    """Its fp32 fine-tuning and its number of workers."""
    sweep = load(QUICKSTART)
    specs = [stage.spec for stage in make_plan(sweep, Hardware("cpu")).stages]
    spec = next(spec for spec in specs if isinstance(spec, FinetuneSpec) and spec.precision == "fp32")
    return spec, sweep.resources.workers


def measure(gang: Gang, spec: FinetuneSpec, rule: CheckpointRule) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="checkpoint-cost-") as folder:
        store, name, keeping = Store(folder), stage_id(spec), Keeping(rule=rule)
        store.create()
        with store.scratch(name):
            seconds = gang.run(timed, lambda rank: (name, spec, rank, store, keeping))[0]
        last = max(Path(folder).glob(f"checkpoints/{name}/*"), default=None)
        size_mib = sum(path.stat().st_size for path in last.iterdir()) / 2**20 if last else None
    train_s, checkpoint_s = sum(seconds["train"]), sum(seconds["checkpoint"])
    return {
        "train_s": train_s,
        "checkpoints_s": seconds["checkpoint"],
        "size_mib": size_mib,
        "share": checkpoint_s / (train_s + checkpoint_s),
    }


def show(report: dict[str, Any], path: Path) -> None:
    table = Table("rule", "training", "checkpoints", "each", "size", "share of the time", title="median (min, max)")
    for name, row in report["rows"].items():
        share = row["share"]
        table.add_row(
            name,
            f"{row['train_s']['median']:.1f} s",
            f"{row['checkpoints']['median']:g}",
            f"{1000 * row['each_s']['median']:.0f} ms" if row["each_s"] else "",
            f"{row['size_mib']:.1f} MiB" if row["size_mib"] else "",
            f"{100 * share['median']:.2f} % ({100 * share['min']:.2f}, {100 * share['max']:.2f})",
        )
    console = Console()
    console.print(table)
    console.print(f"written to {path}", highlight=False)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    each_s = [seconds for run in runs for seconds in run["checkpoints_s"]]
    return {
        "train_s": spread([run["train_s"] for run in runs]),
        "checkpoints": spread([len(run["checkpoints_s"]) for run in runs]),
        "each_s": spread(each_s, 4) if each_s else None,
        "size_mib": runs[-1]["size_mib"],
        "share": spread([run["share"] for run in runs], 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of checkpoints.")
    parser.add_argument("--runs", type=int, default=5, help="of each rule, in turns")
    parser.add_argument("--steps", type=int, help="in place of the quickstart's epochs, to try it out")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()

    spec, workers = quickstart()
    spec = dataclasses.replace(spec, steps=chosen.steps)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in RULES}
    with join("local"):
        group = ray.util.placement_group([{"CPU": 0.5}] * workers)
        ray.get(group.ready(), timeout=60)
        gang = Gang(group, WorkerResources(0.5, 0, "cpu"), [1] * workers, warm_up)
        try:
            measure(gang, dataclasses.replace(spec, steps=5), CheckpointRule())  # the first one loads and compiles
            for _ in range(chosen.runs):
                for name, rule in RULES.items():
                    found[name].append(measure(gang, spec, rule))
        finally:
            gang.dismiss()
    report = provenance("checkpoint_cost", "torch", "deepspeed", "ray") | {
        "workers": workers,
        "rows": {name: summary(runs) for name, runs in found.items()},
    }
    report["reached"] = {"default_under_5_percent": report["rows"]["default"]["share"]["median"] < MOST}
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"checkpoint_cost-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    show(report, path)


if __name__ == "__main__":
    main()
