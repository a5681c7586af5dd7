"""Stages without work, and a run of the product over them without its command line and its results' bookkeeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cluster.gang import WorkerResources
from cluster.node import Node
from cluster.stop_sign import StopSign
from energyaware.checkpoints import CheckpointRule
from energyaware.energy.base import MeterSettings
from energyaware.energy.carbon import factors
from energyaware.spec import DENSE, DataRef, InferenceSpec, ModelRef, stage_id
from energyaware.store import Store
from sweep import schedule
from sweep.failures import Policy
from sweep.needs import Needs
from sweep.node_meter import NodeMeters
from sweep.places import Places
from sweep.plan import PlannedStage
from sweep.settings import Resources
from sweep.stage_actor import Job, StageTrainable
from sweep.tries import Tries


def no_work_stages(count: int, turn: int) -> list[PlannedStage]:
    model = ModelRef("builtin", "none", "0")
    data = DataRef("builtin", "none", "0")
    specs = [
        InferenceSpec(
            model,
            data,
            ("root_cause",),
            None,
            "none",
            "fp32",
            "fp32",
            DENSE,
            1,
            8,
            1,
            None,
            1.0,
            repeats=1,
            seed=1000 * turn + seed,
        )
        for seed in range(count)
    ]
    return [PlannedStage(stage_id(spec), spec) for spec in specs]


def run(
    left: Sequence[Tries],
    *,
    trainable: type[StageTrainable],
    store: Store,
    meters: NodeMeters,
    nodes: Sequence[Node],
    resources: Resources,
    gpus: int,
    listener: Callable[[str, PlannedStage, dict[str, Any]], None],
    may_start: Callable[[PlannedStage], bool] = lambda _: True,
) -> None:
    """Run these stages.

    Args:
        left: the stages.
        trainable: the product's, with the work of its gang, or its gang, taken out.
        store: the results.
        meters: started.
        nodes: the machines.
        resources: of a trial.
        gpus: of a worker.
        listener: of the schedule's events.
        may_start: asked before a stage is handed out.

    Raises:
        RuntimeError: a stage did not finish.
    """
    ended = 0

    def listen(event: str, stage: PlannedStage, row: dict[str, Any]) -> None:
        nonlocal ended
        listener(event, stage, row)
        if event == "ended":
            ended += 1
            if row["state"] != "finished" or row["energy_j"] is None:
                raise RuntimeError(f"a stage without work {row['state']}: {row['reason']}")

    def died(stage: PlannedStage, attempt: int) -> dict[str, Any]:
        raise RuntimeError(f"the actor of {stage.stage_id} died")

    schedule.StageTrainable = trainable  # type: ignore[misc]
    job = Job(
        sweep="no work",
        stages={tries.stage.stage_id: tries.stage for tries in left},
        again=frozenset(),
        store=store,
        workers={"inference": resources.workers},
        resources=WorkerResources(resources.cpus_per_worker, gpus, "cpu"),
        meters=meters.book,
        factors=factors(MeterSettings()),
        rule=CheckpointRule(),
        stopping=StopSign("inference"),
    )
    places = Places(Needs(resources, gpus, ()), lambda: nodes)
    searcher = schedule.StageSearcher(left, Policy(0, 0.0), places, 60.0, listen, print, died, may_start)
    schedule.dispatch(job, searcher)
    if ended != len(left):
        raise RuntimeError(f"{ended} of {len(left)} stages ended")
