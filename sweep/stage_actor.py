"""One stage on a gang, as a Ray Tune trainable: a trial is one stage, the gang stays warm between trials."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray
from ray import tune

from cluster.gang import Gang, Rank, WorkerResources
from energyaware.energy.carbon import Factors
from energyaware.energy.windows import GangMeter
from energyaware.errors import StageError
from energyaware.rows import Row
from energyaware.spec import StageSpec
from energyaware.stage import Outcome, run_stage, warm_up
from energyaware.store import Store
from sweep.node_meter import ANSWER_S, Meter, Meters, StageWindows, end, end_lost, forget
from sweep.plan import PlannedStage
from sweep.record import Attempt, record_finished, record_unfinished


@dataclass(frozen=True)
class Job:
    """What all stages of a run have in common. `meters` are node meters by node id."""

    sweep: str
    stages: dict[str, PlannedStage]
    attempts: dict[str, int]
    store: Store
    workers: int
    resources: WorkerResources
    meters: Meters
    factors: Factors

    def next_attempt(self, stage: PlannedStage) -> int:
        """Number of the attempt that this run makes of a stage."""
        return self.attempts.get(stage.stage_id, 0) + 1


class StageTrainable(tune.Trainable):  # type: ignore[misc]
    """Runs the stage that its configuration names, and returns how that ended."""

    def setup(self, config: dict[str, Any], job: Job) -> None:
        """Remember the job; the gang is formed when a stage needs it."""
        self._job, self._stage_id = job, config["stage_id"]
        self._gang: Gang | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next stage, with the gang warm."""
        self._stage_id = new_config["stage_id"]
        return True

    def step(self) -> Row:
        """Run the stage to its end, whatever that is."""
        job, stage = self._job, self._job.stages[self._stage_id]
        number = job.next_attempt(stage)
        started_at = datetime.now(UTC)
        attempt = Attempt(stage, number, job.workers, (), started_at)
        try:
            gang = self._warm_gang()
            nodes = tuple(meter.post.node for meter in self._meters(gang))
            attempt = Attempt(stage, number, job.workers, nodes, started_at)
            with job.store.scratch(stage.stage_id):
                outcome = self._run(gang, attempt)
            energy = end(self._meters(gang), attempt.key)
            row = record_finished(job.store, attempt, outcome, energy, sweep=job.sweep, factors=job.factors)
        except Exception as problem:
            row = self._record_failure(attempt, problem)
            self._dismiss()
        else:
            if not gang.is_clean():
                self._dismiss()
        forget(job.meters.values(), attempt.key)
        return {
            "stage_id": stage.stage_id,
            "state": row["state"],
            "reason": row.get("reason"),
            "energy_j": row["energy_j"],
            "energy_kind": row["energy_kind"],
            "duration_s": row["duration_s"],
            "done": True,
        }

    def cleanup(self) -> None:
        """Free the placement group's bundles."""
        self._dismiss()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: what is finished is in the results folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""

    def _warm_gang(self) -> Gang:
        if self._gang is None:
            group = ray.util.get_current_placement_group()
            self._gang = Gang(group, self._job.resources, self._job.workers, warm_up)
        return self._gang

    def _run(self, gang: Gang, attempt: Attempt) -> Outcome:
        for node_id, meter in zip(dict.fromkeys(gang.node_ids), self._meters(gang), strict=True):
            pids, cores = gang.on_node(node_id, gang.pids), self._job.resources.cpus
            ray.get(
                meter.actor.begin.remote(attempt.about, pids, gang.gpus_on_node(node_id), cores * len(pids)),
                timeout=ANSWER_S,
            )

        def arguments(rank: Rank) -> tuple[str, StageSpec, Rank, GangMeter, Store]:
            meter = self._job.meters[gang.node_ids[rank.rank]]
            windows = StageWindows(meter.actor, attempt.key) if rank.leads_node else None
            return attempt.stage.stage_id, attempt.stage.spec, rank, GangMeter(windows), self._job.store

        return gang.run(run_stage, arguments)[0]

    def _meters(self, gang: Gang) -> list[Meter]:
        return [self._job.meters[node] for node in dict.fromkeys(gang.node_ids)]

    def _record_failure(self, attempt: Attempt, problem: Exception) -> Row:
        cause = getattr(problem, "cause", None) or problem
        state = cause.state if isinstance(cause, StageError) else "failed"
        text = str(cause).strip()
        reason = f"{type(cause).__name__}: {text.splitlines()[0]}" if text else type(cause).__name__
        return record_unfinished(
            self._job.store,
            attempt,
            end_lost(self._job.meters.values(), attempt.key, self._job.store),
            state=state,
            reason=reason,
            traceback="".join(traceback.format_exception(problem)),
        )

    def _dismiss(self) -> None:
        if self._gang is not None:
            self._gang.dismiss()
            self._gang = None
