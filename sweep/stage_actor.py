"""One stage on a gang, as a Ray Tune trainable: a trial is one attempt, the gang stays warm between trials."""

from __future__ import annotations

import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import ray
from ray import tune

from cluster.gang import Gang, Rank, WorkerResources
from cluster.presence import absent
from cluster.stop_sign import StopSign
from energyaware.checkpoints import CheckpointRule, Keeping
from energyaware.energy.carbon import Factors
from energyaware.energy.windows import GangMeter
from energyaware.errors import StorageError
from energyaware.points import reached
from energyaware.rows import Row
from energyaware.spec import FinetuneSpec, StageSpec
from energyaware.stage import Outcome, run_stage, warm_up
from energyaware.store import Store
from sweep.carry import trained_before
from sweep.failures import Ending, ending, micro_batch_of
from sweep.judge import Judge, Judges
from sweep.node_meter import Meter, MeterBook, StageWindows, answered, end, end_lost, forget
from sweep.plan import PlannedStage
from sweep.record import Attempt, record_finished, record_unfinished
from sweep.totals import known_sum


class NodeLost(Exception):
    """Ends the trial with its placement group, which holds a place on a node that is gone."""


@dataclass(frozen=True)
class Job:
    """What all stages of a run have in common.

    Attributes:
        sweep: its name.
        stages: what is left, by stage id.
        again: those of them that are finished, and whose results are to be replaced.
        store: the results.
        workers: of a gang, by kind of stage.
        resources: of a worker.
        meters: of the nodes.
        factors: of carbon and cost.
        rule: when fine-tunings leave checkpoints.
        stopping: whether the run is being stopped.
        judges: of fine-tunings that others may be ahead of; None: all are trained to their end.
    """

    sweep: str
    stages: dict[str, PlannedStage]
    again: frozenset[str]
    store: Store
    workers: dict[str, int]
    resources: WorkerResources
    meters: MeterBook
    factors: Factors
    rule: CheckpointRule
    stopping: StopSign
    judges: Judges | None = None

    def judge_of(self, attempt: Attempt, meters: list[Meter]) -> Judge | None:
        """Whom an attempt at a fine-tuning asks whether others are too far ahead; None: nobody is asked."""
        if self.judges is None or not isinstance(attempt.stage.spec, FinetuneSpec):
            return None
        stage_id = attempt.stage.stage_id
        carried_j = known_sum(row["energy_j"] for row in trained_before(self.store, stage_id, attempt.number))
        return self.judges.of(stage_id, attempt.stage.spec, meters, carried_j)


class StageTrainable(tune.Trainable):  # type: ignore[misc]
    """Makes the attempt that its configuration names (`stage_id`, `attempt`, `micro_batch_size`).

    `shape` is the number of workers in each bundle of the trial's placement group.
    """

    def setup(self, config: dict[str, Any], job: Job) -> None:
        """Remember the job; the gang is formed when a stage needs it."""
        self._job, self._asked = job, config
        self._gang: Gang | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next stage, with the gang warm."""
        self._asked = new_config
        return True

    def step(self) -> Row:
        """Run the stage to its end, whatever that is."""
        job, stage = self._job, self._job.stages[self._asked["stage_id"]]
        workers = job.workers[stage.spec.kind]
        micro_batch_size = self._asked["micro_batch_size"] or micro_batch_of(stage.spec, workers)
        attempt = Attempt(stage, self._asked["attempt"], workers, (), datetime.now(UTC), micro_batch_size)
        meters: list[Meter] = []
        failure = None
        try:
            gang = self._warm_gang()
            meters += [job.meters.of(node) for node in dict.fromkeys(gang.node_ids)]
            attempt = replace(attempt, nodes=tuple(meter.post.node for meter in meters))
            with job.store.scratch(stage.stage_id):
                outcome = self._run(gang, meters, attempt)
            energy = end(meters, attempt.key)
            row = record_finished(
                job.store,
                attempt,
                outcome,
                energy,
                sweep=job.sweep,
                factors=job.factors,
                replace=stage.stage_id in job.again,
            )
            self._forget_checkpoints(stage)
        except Exception as problem:
            last = ending(problem, lambda: self._lost_node(meters))
            failure = last.failure
            row = self._record(attempt, meters, last, problem)
            self._dismiss()
        else:
            forget(meters, attempt.key)
            if not gang.is_clean():
                self._dismiss()
        if failure == "lost node":
            raise NodeLost(row["reason"])
        return {
            "stage_id": stage.stage_id,
            "state": row["state"],
            "reason": row.get("reason"),
            "failure": failure,
            "energy_j": row["energy_j"],
            "energy_kind": row["energy_kind"],
            "energy_other_j": row.get("energy_other_j"),
            "energy_spent_j": row.get("energy_spent_j"),
            "duration_s": row["duration_s"],
            "done": True,
        }

    def cleanup(self) -> None:
        """Free the placement group's bundles."""
        self._dismiss()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: what is finished is in the results folder, what is not is in the stage's own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""

    def _warm_gang(self) -> Gang:
        if self._gang is None:
            group = ray.util.get_current_placement_group()
            self._gang = Gang(group, self._job.resources, self._asked["shape"], warm_up)
        return self._gang

    def _run(self, gang: Gang, meters: list[Meter], attempt: Attempt) -> Outcome:
        at_node = dict(zip(dict.fromkeys(gang.node_ids), meters, strict=True))
        for node_id, meter in at_node.items():
            pids, gpus = gang.on_node(node_id, gang.pids), gang.gpus_on_node(node_id)
            answered(partial(meter.actor.begin.remote, attempt.about, pids, gpus, gang.cpus_on_node(node_id)))
        reached("attempt-begun")
        spec: StageSpec = attempt.stage.spec
        if isinstance(spec, FinetuneSpec):
            spec = replace(spec, micro_batch_size=attempt.micro_batch_size)
        stopping, judge = self._job.stopping.of(spec.kind), self._job.judge_of(attempt, meters)
        keeping = Keeping(attempt.number, self._job.rule, stopping, judge)

        def arguments(rank: Rank) -> tuple[str, StageSpec, Rank, GangMeter, Store, Keeping]:
            meter = at_node[gang.node_ids[rank.rank]]
            windows = StageWindows(meter.actor, attempt.key) if rank.leads_node else None
            return attempt.stage.stage_id, spec, rank, GangMeter(windows), self._job.store, keeping

        outcome = gang.run(run_stage, arguments)[0]
        return replace(outcome, columns=outcome.columns | {"gpu_kind": _kind_of(gang)})

    def _forget_checkpoints(self, stage: PlannedStage) -> None:
        """Those of a finished stage are of no use; what cannot be removed now is removed by the next run."""
        from energyaware.checkpoint_store import Checkpoints

        with suppress(StorageError, OSError):
            Checkpoints(self._job.store.files, stage.stage_id).remove()

    def _lost_node(self, meters: list[Meter]) -> str | None:
        """Name of a node of the gang that is gone, if there is one."""
        nodes = list(dict.fromkeys(self._gang.node_ids)) if self._gang else []
        names = {node: meter.post.node for node, meter in zip(nodes, meters, strict=False)}
        return next((names.get(node, node) for node in absent(nodes)), None)

    def _record(self, attempt: Attempt, meters: list[Meter], last: Ending, problem: Exception) -> Row:
        """The attempt's row; where even that cannot be written, what it would have been.

        The meters then keep the attempt: whoever takes their ledgers over records it.
        """
        energy = end_lost(meters, attempt.key, self._job.store)
        told = "".join(traceback.format_exception(problem)) if last.failure in {"error", "refused"} else None
        try:
            row = record_unfinished(
                self._job.store, attempt, energy, state=last.state, reason=last.reason, traceback=told
            )
        except StorageError:
            return {"state": last.state, "reason": last.reason, "energy_j": None, "energy_kind": None, "duration_s": 0}
        forget(meters, attempt.key)
        return row

    def _dismiss(self) -> None:
        if self._gang is not None:
            self._gang.dismiss()
            self._gang = None


def _kind_of(gang: Gang) -> str | None:
    """Product name of the GPUs that the gang holds."""
    return " and ".join(sorted(kind or "unknown" for kind in gang.gpu_kinds)) or None
