"""How the driver bears up under 10,000 stages, and how busy it keeps slots.

plan: seconds of `energyaware plan`, as a whole process, for 9,000 trials of 10,000 stages.

driver: processor time of the driver's process for each stage, and its memory, over 10,000 stages without work on 128
nodes of 8 GPUs each, which are Ray resources of one machine; a stage takes one node whole. 16 run at once, for each
takes a process. The schedule, the searcher, the progress, a budget and a node's meter are the product's; stages form
no gang and write nothing, which would be the work of other processes.

slots: the share of time in which 4 slots hold a stage, from when each has finished its first one until the last stage
starts. Stages take 2 s, in which they do nothing; gang, meter, windows, record and store are the product's.

    .venv/bin/python benchmarks/scale.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
import ray
from environment import provenance, spread
from no_work import no_work_stages, run
from rich.console import Console

from analysis.budget import Caps, Spending
from analysis.estimate import Estimates
from cluster.members import members
from cluster.node import Node
from cluster.ray_start import apart_and_light
from energyaware.energy.base import MeterSettings
from energyaware.stage import Outcome
from energyaware.store import Store
from sweep.budget import Keeper
from sweep.node_meter import NodeMeters
from sweep.plan import PlannedStage
from sweep.progress import Progress
from sweep.settings import Resources
from sweep.stage_actor import StageTrainable
from sweep.tries import Tries

NODES: Final = 128
GPUS_PER_NODE: Final = 8
AT_ONCE: Final = 16
EARLY: Final = 0.01
COMPARED: Final = 0.02
"""Shares of all stages: after the first 100 of 10,000, the next 200 are compared with the last 200."""

SLOTS: Final = 4
STAGE_S: Final = 2.0

MOST_PLAN_S: Final = 5.0
MOST_GROWTH: Final = 1.5
MOST_MEMORY_BYTES: Final = 2**30
LEAST_BUSY: Final = 0.95

BIG: Final = """
precisions: [bf16, {{finetune: bf16, inference: [int8, nf4]}}]
prunings: [none, magnitude-2:4, wanda-2:4]
resources: {{device: cpu}}
seeds: {seeds}
"""
"""A seed makes one fine-tuning and nine inferences."""


class Nothing(StageTrainable):
    """The product's trainable without a gang."""

    def step(self) -> dict[str, Any]:
        return {
            "stage_id": self._asked["stage_id"],
            "state": "finished",
            "reason": None,
            "failure": None,
            "energy_j": 1.0,
            "energy_kind": "estimated",
            "energy_other_j": 0.0,
            "energy_spent_j": 1.0,
            "duration_s": 0.01,
            "done": True,
        }


def wait(stage: str, spec: Any, rank: Any, meter: Any, store: Any, keeping: Any) -> Outcome:
    """In place of `run_stage`: the same arguments, one window."""
    with meter.window("decode"):
        time.sleep(STAGE_S)
    return Outcome({"device": rank.device, "device_name": str(os.getpid())})


class Wait(StageTrainable):
    """The product's trainable, with the work of its gang replaced by waiting."""

    def _warm_gang(self) -> Any:
        gang = super()._warm_gang()
        gang.run = lambda function, arguments: type(gang).run(gang, wait, arguments)
        return gang


def run_on(
    stages: list[PlannedStage],
    store: Store,
    nodes: tuple[Node, ...],
    trainable: type[StageTrainable],
    resources: Resources,
    gpus: int,
) -> list[tuple[float, int]]:
    """Run the stages. Returns processor seconds and resident bytes of this process at the end of each."""
    store.create()
    meters = NodeMeters(MeterSettings(idle_s=0.0), store, run="scale", sweep="scale")
    meters.start()
    left = [Tries(stage, 1) for stage in stages]
    keeper = Keeper(Caps({"kwh": 1e6}), Spending(), Estimates(), lambda _: gpus * resources.workers)
    me, marks = psutil.Process(), []
    with Path("/dev/null").open("w") as nowhere:
        progress = Progress(0, 0, left, meters, keeper, keeper.saw, Console(file=nowhere))

        def listen(event: str, stage: PlannedStage, ended: dict[str, Any]) -> None:
            progress(event, stage, ended)
            if event == "ended":
                marks.append((time.process_time(), me.memory_info().rss))

        with progress:
            run(
                left,
                trainable=trainable,
                store=store,
                meters=meters,
                nodes=nodes,
                resources=resources,
                gpus=gpus,
                listener=listen,
                may_start=keeper.may_start,
            )
    meters.finish()
    return marks


def plan(seeds: int, runs: int) -> dict[str, Any]:
    """Seconds of `energyaware plan`."""
    command = str(Path(sys.executable).with_name("energyaware"))
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        (Path(folder) / "big.yaml").write_text(BIG.format(seeds=list(range(seeds))))
        took_s = []
        for _ in range(runs):
            began_s = time.perf_counter()
            asked = [command, "plan", "big.yaml", "--format", "json"]
            done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=True)
            took_s.append(time.perf_counter() - began_s)
    return {"stages": len(json.loads(done.stdout)["stages"]), **spread(took_s)}


def driver(stages: int) -> dict[str, Any]:
    """Processor time of the driver for each stage, and its memory."""
    start(cpus=AT_ONCE, gpus=NODES * GPUS_PER_NODE)
    try:
        (here,) = (node["NodeID"] for node in ray.nodes())
        nodes = tuple(Node(here, f"node{n}", "127.0.0.1", 1.0, GPUS_PER_NODE, 2**40) for n in range(NODES))
        resources = Resources(workers=GPUS_PER_NODE, cpus_per_worker=1 / GPUS_PER_NODE)
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            began_s = time.perf_counter()
            marks = run_on(no_work_stages(stages, 0), Store(folder), nodes, Nothing, resources, gpus=1)
            took_s = time.perf_counter() - began_s
    finally:
        ray.shutdown()
    cpu_ms = [1e3 * (after[0] - before[0]) for before, after in itertools.pairwise(marks)]
    first, compared = int(EARLY * stages), max(1, int(COMPARED * stages))
    early_ms, late_ms = statistics.fmean(cpu_ms[first : first + compared]), statistics.fmean(cpu_ms[-compared:])
    return {
        "stages": stages,
        "elapsed_s": round(took_s, 1),
        "early_cpu_ms_per_stage": round(early_ms, 2),
        "late_cpu_ms_per_stage": round(late_ms, 2),
        "growth": round(late_ms / early_ms, 2),
        "most_memory_mib": round(max(memory for _, memory in marks) / 2**20),
    }


def slots(stages: int) -> dict[str, Any]:
    """How busy 4 slots are."""
    start(cpus=SLOTS, gpus=0)
    try:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            store = Store(folder)
            run_on(no_work_stages(stages, 0), store, members(), Wait, Resources(workers=1, cpus_per_worker=1), gpus=0)
            rows = [store.stage_row(stage_id) for stage_id in store.finished()]
    finally:
        ray.shutdown()
    attempts: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:  # one worker is one slot
        attempts[row["device_name"]].append((row["started_at"].timestamp(), row["finished_at"].timestamp()))
    firsts = [min(of_slot) for of_slot in attempts.values()]
    later = [each for of_slot in attempts.values() for each in sorted(of_slot)[1:]]
    warm_s, last_s = max(end for _, end in firsts), max(begin for begin, _ in later)
    if len(firsts) != SLOTS or last_s <= warm_s:
        raise RuntimeError(f"{stages} stages were too few to warm {SLOTS} slots: --slot-stages")
    held_s = sum(max(0.0, min(end, last_s) - max(begin, warm_s)) for begin, end in later)
    measured = [end - begin for begin, end in later]
    return {
        "stages": stages,
        "slots": SLOTS,
        "busy": round(held_s / (SLOTS * (last_s - warm_s)), 4),
        "working": round(STAGE_S * held_s / statistics.fmean(measured) / (SLOTS * (last_s - warm_s)), 4),
        "stage": spread(measured),
    }


def start(cpus: int, gpus: int) -> None:
    """Ray on this machine, with as much of everything as is said."""
    with apart_and_light():
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="The driver under 10,000 stages, and how busy it keeps slots.")
    parser.add_argument("--stages", type=int, default=10_000, help="of the plan and the driver")
    parser.add_argument("--slot-stages", type=int, default=80, help="of the slots")
    parser.add_argument("--runs", type=int, default=5, help="of the plan")
    parser.add_argument("--only", choices=["plan", "driver", "slots"], help="one part alone")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    chosen = parser.parse_args()

    parts = {
        "plan": lambda: plan(chosen.stages // 10, chosen.runs),
        "driver": lambda: driver(chosen.stages),
        "slots": lambda: slots(chosen.slot_stages),
    }
    report: dict[str, Any] = provenance("scale")
    for name, measure in parts.items():
        if chosen.only in {None, name}:
            report[name] = measure()
            print(name, json.dumps(report[name], indent=1))
    report["wanted"] = {
        "plan_s": MOST_PLAN_S,
        "growth": MOST_GROWTH,
        "memory_mib": MOST_MEMORY_BYTES // 2**20,
        "busy": LEAST_BUSY,
    }
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / f"scale-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
