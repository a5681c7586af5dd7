"""One session on machines: join them, meter them, run what is left, and account for whatever ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from analysis.load import load
from cluster.connect import join
from cluster.gang import WorkerResources
from cluster.members import members
from cluster.ray_start import apart_and_light
from cluster.reaper import reaped
from cluster.stop_sign import StopSign
from energyaware.energy.carbon import factors
from energyaware.errors import InputError
from sweep.accounts import Accounts
from sweep.ended import Ended
from sweep.failures import Policy
from sweep.feasibility import refused_by_models
from sweep.funnel import narrowed
from sweep.judge import Judges
from sweep.metrics import Metrics
from sweep.needs import refuse_idle_gpus, refused_by_machines, settle
from sweep.node_meter import NodeMeters
from sweep.own_code import own_code
from sweep.places import Places
from sweep.preflight import preflight
from sweep.prepare import pin_models, prepare
from sweep.progress import Progress
from sweep.schedule import StageSearcher, dispatch
from sweep.stage_actor import Job
from sweep.stopping import stopping
from sweep.tries import Tries

if TYPE_CHECKING:
    from rich.console import Console

    from energyaware.lease import Lease
    from energyaware.precision import Device
    from energyaware.rows import Row
    from energyaware.store import Store
    from sweep.budget import Keeper
    from sweep.config import Sweep
    from sweep.left import Left
    from sweep.plan import Plan


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
        budget: knows what the sweep may still use.
        held: ids of those to run that a funnel holds back until all others have ended.
        ship_code: have the cluster run this installation's code.
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
    budget: Keeper
    held: frozenset[str] = frozenset()
    ship_code: bool = False


def run_stages(setting: Setting, console: Console) -> Ended:
    """Run what is left.

    Raises:
        InputError: the energy settings cannot be used, or no cluster answers.
    """
    sweep, store = setting.sweep, setting.store
    with _naming(setting.source):
        setting = replace(setting, left=pin_models(setting.left))
        energy_factors = factors(sweep.energy.settings())
    with ExitStack() as machines:
        with console.status("starting Ray" if setting.address == "local" else f"joining {setting.address}"):
            if setting.address == "local":
                machines.enter_context(reaped())
            shipped = own_code() if setting.ship_code else nullcontext(())
            with apart_and_light(), _as_input(setting.address), shipped as code:
                machines.enter_context(join(setting.address, code))
        preflight(setting, console, refuse_shared_gpus=sweep.resources.exclusive != "none")
        nodes = members()
        refuse_idle_gpus(sweep.resources, setting.device, nodes, setting.source)
        needs = settle(sweep.resources, setting.gpus_per_worker, nodes, setting.source)
        on_disk = store.root is not None
        unfit = refused_by_machines(
            *(setting.left.stages, needs, nodes, setting.source),
            on_gpus=setting.device == "cuda",
            one_folder=on_disk,
        )
        sign = StopSign("finetune", "inference")
        session = _Session(setting, console, sign)
        with stopping(session.stop):
            meters = session.start_meters()
            with _naming(setting.source):
                names = {node: meters.name_of(node) for node in meters.node_ids}
                prepare(setting.left.stages, names, on_gpus=setting.gpus_per_worker > 0, console=console)
            left = session.without_refused(unfit)
            resources = WorkerResources(sweep.resources.cpus_per_worker, setting.gpus_per_worker, setting.device)
            job = Job(
                sweep=sweep.name,
                stages={tries.stage.stage_id: tries.stage for tries in left},
                again=setting.left.again,
                store=store,
                workers={kind: sweep.resources.workers_of(kind) for kind in ("finetune", "inference")},
                resources=resources,
                meters=meters.book,
                factors=energy_factors,
                rule=sweep.checkpoints.rule(),
                stopping=sign,
                judges=session.judges(),
            )
            return session.dispatch(job, left, Places(needs, meters.nodes))


class _Session:
    """What the driver knows while stages run."""

    def __init__(self, setting: Setting, console: Console, sign: StopSign) -> None:
        self._setting, self._console, self._sign = setting, console, sign
        self._searcher: StageSearcher | None = None
        self._stopped_by: str | None = None
        self._stopping = threading.Event()
        self._over_budget = False
        self._plan, self._held = setting.plan, list[Tries]()
        # Nobody could ask for them on a machine whose Ray is started without an agent (`apart_and_light`).
        self._metrics = None if setting.address == "local" else Metrics(setting.sweep.name)

    def stop(self) -> None:
        """Have running stages leave a checkpoint, and start no more."""
        self._stopping.set()
        if self._searcher:
            self._searcher.stop()
        self._sign.stop()
        self._tell("stopping: running fine-tunings leave a checkpoint first; again, to stop at once")

    def _seen(self, said: Sequence[dict[str, Any]]) -> None:
        """Take note of what meters say of running stages."""
        self._setting.budget.saw(said)
        self._keep_to_budget()
        if self._metrics:
            self._metrics.update(self._progress.states(), said, self._setting.budget.uses())

    def _keep_to_budget(self) -> None:
        """Start no more once a cap is reached, and stop what can go on from a checkpoint."""
        if self._over_budget or self._searcher is None or not self._setting.budget.is_reached():
            return
        self._over_budget = True
        self._searcher.stop()
        self._sign.stop("finetune")
        told = "the budget is used up: running fine-tunings leave a checkpoint and stop, inferences end"
        self._console.print(told, style="yellow", highlight=False)

    def _tell(self, line: str) -> None:
        self._console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)

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

    def without_refused(self, refused: dict[str, str]) -> tuple[Tries, ...]:
        """What is left without what is refused, by stage id, or by the models themselves, which the plan then says."""
        left, plan = self._setting.left, self._plan
        refused = refused_by_models(stage for stage in left.stages if stage.stage_id not in refused) | refused
        if not refused:
            return left.tries
        plan = self._plan = plan.refusing(refused)
        self._setting.store.write_plan([stage.row() for stage in plan])
        for reason in dict.fromkeys(refused.values()):
            self._tell(f"infeasible: {reason}")
        asked = {stage.stage_id for stage in left.stages}
        wanted = {stage.stage_id for stage in plan.minus({stage.stage_id for stage in plan} - asked)}
        return tuple(tries for tries in left.tries if tries.stage.stage_id in wanted)

    def judges(self) -> Judges | None:
        """Of fine-tunings, where the sweep asks for them."""
        sweep, store = self._setting.sweep, self._setting.store
        if sweep.halving is None:
            return None
        return Judges(sweep.halving, sweep.ranking.weight, self._plan, load(store.url), store.files)

    def dispatch(self, job: Job, left: tuple[Tries, ...], places: Places) -> Ended:
        """Run these stages, and account for whatever ended."""
        setting, budget = self._setting, self._setting.budget
        before = _done(setting), len(setting.left.failed)
        progress = Progress(*before, left, self._meters, budget, self._seen, self._console)
        accounts = Accounts(job.store, job.workers, self._meters)
        self._progress = progress
        policy = Policy(setting.sweep.failures.retries, setting.sweep.failures.backoff_s)
        wait_s = 60 * setting.sweep.resources.wait_minutes
        self._held = [tries for tries in left if tries.stage.stage_id in setting.held]
        first = [tries for tries in left if tries.stage.stage_id not in setting.held]
        searcher = self._searcher = StageSearcher(
            *(first, policy, places, wait_s, progress, self._tell, accounts.of_dead),
            may_start=budget.may_start,
            next_round=self._next_round,
        )
        threading.Thread(target=self._watch_lease, daemon=True).start()
        interrupted = False
        try:
            with progress:
                if left and not self._stopping.is_set():
                    dispatch(job, searcher)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            accounts.close(searcher.running)  # whatever went wrong: a closed terminal fails in what is printed
        stopped_by = self._stopped_by or searcher.stopped_by
        if interrupted or stopped_by or self._stopping.is_set():
            return Ended(progress.failed, interrupted=True, stopped_by=stopped_by)
        over_budget = self._over_budget or budget.refused
        is_left = searcher.waiting > 0 or bool(self._held)
        return Ended(progress.failed, is_left and not over_budget, over_budget=is_left and over_budget)

    def _next_round(self) -> Sequence[Tries]:
        """What a funnel has held back, without what is not worth running. Empty the second time."""
        held, self._held = self._held, []
        if not held:
            return ()
        try:
            plan = narrowed(self._setting.sweep, self._plan, load(self._setting.store.url))
        except InputError as problem:
            self._held, self._stopped_by = held, f"the funnel cannot choose: {problem}"
            self.stop()
            return ()
        self._setting.store.write_plan([stage.row() for stage in plan])
        skipped = {stage.stage_id for stage in plan if stage.state == "skipped"}
        self._progress.skip(skipped)
        return [tries for tries in held if tries.stage.stage_id not in skipped]

    def _watch_lease(self) -> None:
        self._setting.lease.lost.wait()
        self._stopped_by = "another run has taken over these results"
        self.stop()


def _done(setting: Setting) -> int:
    """Stages of the plan that have a result, but for those to be measured again."""
    finished = set(setting.store.finished()) - setting.left.again
    return sum(stage.stage_id in finished for stage in setting.plan)


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
