"""What a stage costs beyond its own work, ours beside `TorchTrainer` inside Tune, measured in one run.

Ours: the schedule, searcher, warm gang, node meter, windows, record and store of the product; a stage's work is
replaced by three windows around one all_reduce. Peer: what the Ray documentation recommends, a Tune function trainable
that starts a `TorchTrainer` for each trial; its loop imports deepspeed as our workers do, does the same all_reduce, and
is not metered. Both have 2 gloo workers on the CPU and run one trial at a time, in turns within one Ray session.

The cost of a stage is the time from the end of the one before it to its own end, as the driver sees it; the first
stage of each turn, which pays for the gang or for Tune's start, is reported apart.

    .venv/bin/python benchmarks/stage_overhead.py
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from no_work import no_work_stages, run
from ray import tune
from rich.console import Console
from rich.table import Table

from cluster.connect import join
from cluster.inventory import local_cpus
from cluster.members import members
from energyaware.energy.base import MeterSettings
from energyaware.stage import Outcome
from energyaware.store import Store
from sweep.node_meter import NodeMeters
from sweep.plan import PlannedStage
from sweep.settings import Resources
from sweep.stage_actor import StageTrainable
from sweep.tries import Tries

WORKERS: Final = 2
WINDOWS: Final = ("evaluate", "prefill", "decode")
"""As an inference stage opens them."""

MOST_S: Final = 1.0
LEAST_RATIO: Final = 10.0


def no_work(stage: str, spec: Any, rank: Any, meter: Any, store: Any, keeping: Any) -> Outcome:
    """In place of `run_stage`: the same arguments, the same windows, one all_reduce."""
    import torch

    total = torch.ones(1)
    for window in WINDOWS:
        with meter.window(window):
            torch.distributed.all_reduce(total)
    return Outcome({"device": rank.device})


class NoWorkStage(StageTrainable):
    """The product's trainable, with the work taken out of what it gives to its gang."""

    def _warm_gang(self) -> Any:
        gang = super()._warm_gang()
        gang.run = lambda function, arguments: type(gang).run(gang, no_work, arguments)
        return gang


def ours(turn: int, stages: int, store: Store, meters: NodeMeters) -> tuple[list[float], list[float]]:
    """Seconds per stage, the first one with the forming of the gang; and of these those inside its attempt."""
    planned = no_work_stages(1 + stages, turn)
    ends: list[float] = [time.perf_counter()]
    inside: list[float] = []

    def listen(event: str, stage: PlannedStage, ended: dict[str, Any]) -> None:
        if event == "ended":
            ends.append(time.perf_counter())
            inside.append(ended["duration_s"])

    run(
        [Tries(stage, 1) for stage in planned],
        trainable=NoWorkStage,
        store=store,
        meters=meters,
        nodes=members(),
        resources=Resources(workers=WORKERS, cpus_per_worker=1),
        gpus=0,
        listener=listen,
    )
    if not {stage.stage_id for stage in planned} <= store.finished():
        raise RuntimeError("a stage that ended has no row")
    return differences(ends), inside


def peer_loop(config: dict[str, Any]) -> None:
    """What each worker of the peer's trial does."""
    import deepspeed  # noqa: F401
    import torch

    total = torch.ones(1)
    for _ in WINDOWS:
        torch.distributed.all_reduce(total)
    if total.item() != WORKERS ** len(WINDOWS):
        raise RuntimeError("the workers did not reduce together")


def peer_trial(config: dict[str, Any]) -> None:
    """A Tune trial that starts a trainer, as documented for Ray Train V2."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        peer_loop,
        torch_config=TorchConfig(backend="gloo"),
        # The trial's own process needs a share of a core too, and there may be no more than two.
        scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 0.9}),
        run_config=RunConfig(name=f"peer-{config['trial']}", storage_path=config["storage"]),
    ).fit()
    tune.report({"done": True})


class Ends(tune.Callback):
    """Notes when trials end."""

    def __init__(self) -> None:
        self.at = [time.perf_counter()]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.at.append(time.perf_counter())


def peer(turn: int, trials: int) -> list[float]:
    """Seconds per trial, the first one with Tune's start."""
    ends = Ends()
    with tempfile.TemporaryDirectory(prefix="overhead-") as storage:
        tuner = tune.Tuner(
            tune.with_resources(peer_trial, {"CPU": 0.1}),
            param_space={"trial": tune.grid_search([f"{turn}-{n}" for n in range(1 + trials)]), "storage": storage},
            tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
            run_config=tune.RunConfig(name="peer", storage_path=storage, verbose=0, callbacks=[ends]),
        )
        with contextlib.redirect_stdout(io.StringIO()):
            results = tuner.fit()
        if results.errors or len(ends.at) != 2 + trials:
            raise RuntimeError(f"the peer did not run: {results.errors}")
    return differences(ends.at)


def differences(times: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


def spread(seconds: list[float]) -> dict[str, Any]:
    return {
        "median_s": round(statistics.median(seconds), 3),
        "min_s": round(min(seconds), 3),
        "max_s": round(max(seconds), 3),
        "all_s": [round(value, 3) for value in seconds],
    }


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.partition(":")[2].strip() for line in info if line.startswith("model name")}
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    return {
        "cpu": ", ".join(sorted(names)),
        "cores": local_cpus(),
        "memory_gib": round(memory / 2**20, 1),
        "platform": platform.platform(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Cost of a stage beyond its own work, beside TorchTrainer inside Tune."
    )
    parser.add_argument("--turns", type=int, default=3, help="turns of each side")
    parser.add_argument("--stages", type=int, default=10, help="our warm stages in a turn")
    parser.add_argument("--trials", type=int, default=2, help="the peer's warm trials in a turn")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()

    load_before = os.getloadavg()
    first: dict[str, list[float]] = {"ours": [], "peer": []}
    warm: dict[str, list[float]] = {"ours": [], "peer": []}
    inside: list[float] = []
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder, join("local"):
        store = Store(folder)
        store.create()
        meters = NodeMeters(MeterSettings(idle_s=0.0), store, run="overhead", sweep="overhead")
        meters.start()
        for turn in range(chosen.turns):
            seconds, within = ours(turn, chosen.stages, store, meters)
            inside += within[1:]
            for side, values in (("ours", seconds), ("peer", peer(turn, chosen.trials))):
                first[side].append(values[0])
                warm[side] += values[1:]
                print(f"turn {turn} {side}: {[round(value, 2) for value in values]}", file=sys.stderr)

    ratio = statistics.median(warm["peer"]) / statistics.median(warm["ours"])
    report = {
        "benchmark": "stage_overhead",
        "measured": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine() | {"load_before": load_before, "load_after": os.getloadavg()},
        "versions": {name: version(name) for name in ("energyaware", "ray", "torch", "deepspeed", "codecarbon")}
        | {"python": platform.python_version()},
        "ours": spread(warm["ours"])
        | {
            "first_s": [round(value, 2) for value in first["ours"]],
            "inside_attempt_median_s": round(statistics.median(inside), 3),  # the rest is Tune's
        },
        "peer": spread(warm["peer"]) | {"first_s": [round(value, 2) for value in first["peer"]]},
        "ratio": round(ratio, 1),
        "reached": {
            "median_at_most_1_s": statistics.median(warm["ours"]) <= MOST_S,
            "ratio_at_least_10": ratio >= LEAST_RATIO,
        },
    }
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"stage_overhead-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    show(report, path)


def show(report: dict[str, Any], path: Path) -> None:
    table = Table("a stage beyond its own work", "n", "median", "min", "max", "first (cold)")
    for side, name in (("ours", "energyaware, warm gang"), ("peer", "TorchTrainer inside Tune")):
        row = report[side]
        figures = [f"{row[key]:.2f} s" for key in ("median_s", "min_s", "max_s")]
        table.add_row(name, str(len(row["all_s"])), *figures, f"{statistics.median(row['first_s']):.1f} s")
    console = Console()
    console.print(table)
    console.print(f"ratio of medians {report['ratio']:.1f}; written to {path}", highlight=False)


if __name__ == "__main__":
    main()
