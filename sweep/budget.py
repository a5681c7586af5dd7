"""Keeping a sweep within its budget while it runs.

What a stage will take is known from finished stages only (`analysis.estimate`), so the first ones of a kind may start
while anything is left, and teach what the others will take. They are held to the caps all the same: once what was used,
by running stages too, has reached a cap, fine-tunings leave a checkpoint and stop. Inferences end: they have none.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from analysis.budget import NOTHING, Caps, CapUse, Spending, spending, uses
from analysis.estimate import Effort, Estimates, estimates
from energyaware.rows import Row
from sweep.plan import PlannedStage
from sweep.totals import known_sum

if TYPE_CHECKING:
    from analysis.load import Results
    from sweep.config import Sweep


@dataclass
class _Running:
    """A stage at work: GPUs that it holds, what it will take, since when meters know of it, and its joules so far."""

    gpus: int
    need: Effort | None
    since_s: float | None = None
    energy_j: float = 0.0

    def so_far(self, now_s: float) -> Effort:
        at_work_s = 0.0 if self.since_s is None else now_s - self.since_s
        return Effort(self.energy_j, self.gpus * at_work_s, at_work_s)

    def at_least(self, now_s: float) -> Effort:
        """What it will have taken in the end: as estimated, or what it has taken already."""
        so_far = self.so_far(now_s)
        if self.need is None:
            return so_far
        pairs = (
            (so_far.energy_j, self.need.energy_j),
            (so_far.gpu_s, self.need.gpu_s),
            (so_far.duration_s, self.need.duration_s),
        )
        return Effort(*(max(taken or 0.0, expected or 0.0) for taken, expected in pairs))


class Keeper:
    """Knows what a sweep has used, and says what may still start. Safe to be asked from several threads.

    Args:
        caps: what may be used.
        spent: in earlier runs.
        estimates: from their stages.
        gpus_of: GPUs that a stage holds.
        clock_s: monotonic.
    """

    def __init__(
        self,
        caps: Caps,
        spent: Spending,
        estimates: Estimates,
        gpus_of: Callable[[PlannedStage], int],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caps, self._spent, self._estimates, self._gpus_of = caps, spent, estimates, gpus_of
        self._clock_s, self._began_s = clock_s, clock_s()
        self._running: dict[str, _Running] = {}
        self._at_work: Effort | None = None
        self._rows: dict[str, Row] = {}
        self._refused = False
        self._lock = threading.Lock()

    @property
    def refused(self) -> bool:
        """Whether the stage that was asked for last may not start."""
        return self._refused

    def may_start(self, stage: PlannedStage) -> bool:
        """Whether all running stages and this one stay within every cap, as far as can be told."""
        if not self._caps.limits:
            return True
        with self._lock:
            if self._running.pop(stage.stage_id, None):  # it waited for room where there is none any more
                self._at_work = None
            self._refused = bool(self._caps.exceeded(self._in_the_end(), self._need(stage)))
            return not self._refused

    def none_may_start(self, stages: Sequence[PlannedStage]) -> bool:
        """Whether, of the stages to run, none whose inputs are there may start."""
        to_run = {stage.stage_id for stage in stages}
        ready = (stage for stage in stages if to_run.isdisjoint(stage.spec.needs))
        return bool(stages) and not any(map(self.may_start, ready))

    def is_reached(self) -> bool:
        """Whether a cap has been reached, with what running stages have taken so far."""
        with self._lock:
            return bool(self._caps.limits) and bool(self._caps.exceeded(self._so_far(), NOTHING))

    def uses(self) -> list[CapUse]:
        """What is used of each cap now."""
        with self._lock:
            return uses(self._caps, self._so_far())

    def started(self, stage: PlannedStage) -> None:
        """A stage was handed out; it may have to wait for room."""
        with self._lock:
            self._running[stage.stage_id] = _Running(self._gpus_of(stage), self._need(stage))
            self._at_work = None

    def saw(self, said: Iterable[Mapping[str, Any]]) -> None:
        """What meters say now and then; `joules` are those of running stages so far, by stage id.

        They only grow: those of a node whose meter does not answer, or was started anew, are spent all the same.
        """
        joules: defaultdict[str, float] = defaultdict(float)
        for now in said:
            for stage_id, energy_j in now["joules"].items():
                joules[stage_id] += energy_j
        with self._lock:
            self._at_work = None
            for stage_id in joules.keys() & self._running.keys():
                running = self._running[stage_id]
                running.energy_j = max(running.energy_j, joules[stage_id])
                running.since_s = self._clock_s() if running.since_s is None else running.since_s

    def ended(self, stage: PlannedStage, row: Row) -> None:
        """An attempt ended: `row` has its state, duration_s and joules. One that finished its stage is learnt from."""
        with self._lock:
            running = self._running.pop(stage.stage_id, None)
            if running is None:
                return
            self._at_work = None
            duration_s = row.get("duration_s") or 0.0
            gpu_s = running.gpus * duration_s
            all_j = known_sum((row.get("energy_j"), row.get("energy_other_j")))
            spent_j = row.get("energy_spent_j", all_j)
            finished = row["state"] == "finished"
            self._spent = self._spent.plus(spent_j, duration_s, gpu_s, finished=finished)
            if finished:
                whole = Effort(all_j, gpu_s, duration_s)
                if all_j and spent_j:  # it went on from a checkpoint: time goes with joules
                    whole = replace(whole.times(all_j / spent_j), energy_j=all_j)
                self._estimates.learn(self._row(stage), whole, row.get("energy_other_j"))

    def _in_the_end(self) -> Effort:
        """Used, once all that runs has ended; wall time is now."""
        if self._at_work is None:  # summed once for all who ask until something is heard: thousands may wait
            now_s = self._clock_s()
            self._at_work = _sum(running.at_least(now_s) for running in self._running.values())
        return self._used_with(self._at_work)

    def _so_far(self) -> Effort:
        now_s = self._clock_s()
        return self._used_with(_sum(running.so_far(now_s) for running in self._running.values()))

    def _used_with(self, running: Effort) -> Effort:
        used, wall_s = self._spent.effort, self._clock_s() - self._began_s
        energy_j = None if used.energy_j is None else used.energy_j + (running.energy_j or 0.0)
        return Effort(energy_j, (used.gpu_s or 0.0) + (running.gpu_s or 0.0), (used.duration_s or 0.0) + wall_s)

    def _need(self, stage: PlannedStage) -> Effort | None:
        estimate = self._estimates.of(self._row(stage))
        return estimate.effort if estimate else None

    def _row(self, stage: PlannedStage) -> Row:
        if stage.stage_id not in self._rows:
            self._rows[stage.stage_id] = stage.row()
        return self._rows[stage.stage_id]


def _sum(efforts: Iterable[Effort]) -> Effort:
    """Joules and GPU-seconds; stages at work share their wall time."""
    every = list(efforts)
    return Effort(sum(part.energy_j or 0.0 for part in every), sum(part.gpu_s or 0.0 for part in every), None)


def keeper(sweep: Sweep, results: Results, gpus_per_worker: int) -> Keeper:
    """Of a sweep whose earlier runs left these results."""

    def gpus_of(stage: PlannedStage) -> int:
        return sweep.resources.workers_of(stage.spec.kind) * gpus_per_worker

    caps = Caps.of_sweep(sweep.model_dump(mode="json"))
    return Keeper(caps, spending(results), estimates(results), gpus_of)
