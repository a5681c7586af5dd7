"""One session on machines: join them, meter them, run what is left, and account for whatever ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cluster.connect import join
from cluster.gang import WorkerResources
from cluster.presence import absent
from cluster.ray_start import apart_and_light
from cluster.reaper import reaped
from cluster.stop_sign import StopSign
from energyaware.energy.carbon import factors
from energyaware.errors import InputError, StorageError
from sweep.carry import read_rows
from sweep.ended import Ended
from sweep.failures import Policy
from sweep.feasibility import refused_by_models
from sweep.node_meter import NodeMeters, end_lost, forget
from sweep.prepare import prepare_models
from sweep.progress import Progress
from sweep.record import Attempt, record_unfinished
from sweep.recover import forget_checkpoints, take_over
from sweep.schedule import StageSearcher, dispatch
from sweep.stage_actor import Job
from sweep.stopping import stopping

if TYPE_CHECKING:
    from rich.console import Console

    from energyaware.lease import Lease
    from energyaware.precision import Device
    from energyaware.rows import Row
    from energyaware.store import Store
    from sweep.config import Sweep
    from sweep.left import Left
    from sweep.plan import Plan, PlannedStage
    from sweep.tries import Tries


@dataclass(frozen=True)
class Setting:
    """What a session runs, and where.

    Attributes:
        sweep: what was asked for.
        plan: its stages.
        left: those to run.
        store: where results go.
        lease: holds them.
        device: what workers compute on.
        gpus_per_worker: that a worker holds.
        address: of the Ray cluster.
        source: the sweep file, for errors.
        idle_rows: rows of the nodes table of runs today, which tell nodes' idle power.
    """

    sweep: Sweep
    plan: Plan
    left: Left
    store: Store
    lease: Lease
    device: Device
    gpus_per_worker: int
    address: str
    source: Any
    idle_rows: Sequence[Row]


def run_stages(setting: Setting, console: Console) -> Ended:
    """Run what is left.

    Raises:
        InputError: the energy settings cannot be used, or no cluster answers.
    """
    sweep, store = setting.sweep, setting.store
    with _naming(setting.source):
        energy_factors = factors(sweep.energy.settings())
    with ExitStack() as machines:
        with console.status("starting Ray" if setting.address == "local" else f"joining {setting.address}"):
            if setting.address == "local":
                machines.enter_context(reaped())
            with apart_and_light(), _as_input(setting.address):
                machines.enter_context(join(setting.address))
        sign = StopSign()
        session = _Session(setting, console, sign)
        with stopping(session.stop):
            meters = session.start_meters()
            prepare_models(setting.left.stages, meters.node_ids, console)
            left = session.without_refused()
            resources = WorkerResources(sweep.resources.cpus_per_worker, setting.gpus_per_worker, setting.device)
            job = Job(
                sweep=sweep.name,
                stages={tries.stage.stage_id: tries.stage for tries in left},
                again=setting.left.again,
                store=store,
                workers=sweep.resources.workers,
                resources=resources,
                meters=meters.book,
                factors=energy_factors,
                rule=sweep.checkpoints.rule(),
                stopping=sign,
            )
            return session.dispatch(job, left)


class _Session:
    """What the driver knows while stages run."""

    def __init__(self, setting: Setting, console: Console, sign: StopSign) -> None:
        self._setting, self._console, self._sign = setting, console, sign
        self._searcher: StageSearcher | None = None
        self._stopped_by: str | None = None
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have running stages leave a checkpoint, and start no more."""
        self._stopping.set()
        if self._searcher:
            self._searcher.stop()
        self._sign.stop()
        self._console.print(
            "stopping: running fine-tunings leave a checkpoint first; again, to stop at once",
            style="yellow",
            highlight=False,
        )

    def start_meters(self) -> NodeMeters:
        """A meter on every node."""
        sweep = self._setting.sweep
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
        meters = NodeMeters(
            sweep.energy.settings(),
            self._setting.store,
            run=name,
            sweep=sweep.name,
            compute_on_gpus=self._setting.device == "cuda",
            idle_rows=self._setting.idle_rows,
        )
        with (
            _naming(self._setting.source),
            self._console.status("starting a meter on every node, and reading idle power"),
        ):
            meters.start()
        meters.watch()
        self._meters = meters
        return meters

    def without_refused(self) -> tuple[Tries, ...]:
        """What is left without what the models themselves refuse, which the plan then says."""
        left, plan = self._setting.left, self._setting.plan
        refused = refused_by_models(left.stages)
        if not refused:
            return left.tries
        plan = plan.refusing(refused)
        self._setting.store.write_plan([stage.row() for stage in plan])
        for reason in dict.fromkeys(refused.values()):
            self._console.print(f"infeasible: {reason}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        asked = {stage.stage_id for stage in left.stages}
        wanted = {stage.stage_id for stage in plan.minus({stage.stage_id for stage in plan} - asked)}
        return tuple(tries for tries in left.tries if tries.stage.stage_id in wanted)

    def dispatch(self, job: Job, left: tuple[Tries, ...]) -> Ended:
        """Run these stages, and account for whatever ended."""
        setting = self._setting
        done = sum(stage.state == "planned" for stage in setting.plan) - len(left) - len(setting.left.failed)
        progress = Progress(done, len(setting.left.failed), left, self._meters, self._console)

        def recorded(stage: PlannedStage, attempt: int) -> Row:
            return self._account_for(job, stage, attempt)

        policy = Policy(setting.sweep.failures.retries, setting.sweep.failures.backoff_s)
        searcher = self._searcher = StageSearcher(left, policy, job.workers, progress, recorded)
        threading.Thread(target=self._watch_lease, daemon=True).start()
        interrupted = False
        try:
            with progress:
                if left and not self._stopping.is_set():
                    dispatch(job, searcher)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._close_accounts(job, searcher)  # whatever went wrong: a closed terminal fails in what is printed
        stopped_by = self._stopped_by or searcher.stopped_by
        stopped = interrupted or searcher.stopping or self._stopping.is_set() or searcher.waiting > 0
        return Ended(progress.failed, stopped, stopped_by)

    def _watch_lease(self) -> None:
        self._setting.lease.lost.wait()
        self._stopped_by = "another run has taken over these results"
        self.stop()

    def _account_for(self, job: Job, stage: PlannedStage, number: int) -> Row:
        """How an attempt ended whose actor can no longer say so."""
        nothing: Row = {"energy_j": None, "energy_kind": None, "duration_s": 0.0}
        for row in read_rows(job.store, "attempts", stage.stage_id, number):  # its last words before it went
            if row["state"] != "finished":
                return row | {"failure": "lost node" if row["state"] == "interrupted" else "error"}
            if stage.stage_id in job.store.finished():
                return row | {"failure": None}
            return row | {"state": "failed", "reason": "its actor died before the result was in", "failure": "error"}
        if gone := absent(self._meters.node_ids):
            names = ", ".join(self._meters.name_of(node) for node in gone)
            ended: Row = {"state": "interrupted", "reason": f"{names} was lost", "failure": "lost node"}
        else:
            ended = {"state": "failed", "reason": "the stage's actor died", "failure": "error"}
        return nothing | self._record(job, stage, number, ended["state"], ended["reason"]) | ended

    def _close_accounts(self, job: Job, searcher: StageSearcher) -> None:
        """Record what was running when the run was stopped, and how the nodes add up."""
        recorded = job.store.attempt_keys()
        for tries in searcher.running:
            if (tries.stage.stage_id, tries.attempt) not in recorded:
                self._record(job, tries.stage, tries.attempt, "interrupted", "the run was stopped")
        take_over(job.store, self._meters.finish())
        with suppress(StorageError):
            forget_checkpoints(job.store)
            job.store.clear_incoming()

    def _record(self, job: Job, stage: PlannedStage, number: int, state: str, reason: str) -> Row:
        """Record an attempt in place of its actor; nothing if it was waiting for workers."""
        key, meters = (stage.stage_id, number), self._meters.all()
        energy = end_lost(meters, key, job.store)
        row: Row = {}
        if energy or state != "interrupted":
            started_at = min((row["started_at"] for row in energy), default=datetime.now(UTC))
            nodes = tuple(dict.fromkeys(row["node"] for row in energy))
            attempt = Attempt(stage, number, job.workers, nodes, started_at)
            row = record_unfinished(job.store, attempt, energy, state=state, reason=reason)
        forget(meters, key)
        return row


@contextmanager
def _as_input(address: str) -> Iterator[None]:
    """A cluster that cannot be joined is a wrong address, or a wrong token."""
    try:
        yield
    except ConnectionError as problem:
        raise InputError("--address", address, str(problem)) from None


@contextmanager
def _naming(source: Any) -> Iterator[None]:
    """Meters know the field that is wrong, and not which file it came from."""
    try:
        yield
    except InputError as problem:
        raise InputError(source, problem.field, problem.problem) from None
