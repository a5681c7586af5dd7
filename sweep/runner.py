"""Running a sweep: plan minus finished, on machines with meters, with what is interrupted recorded."""

from __future__ import annotations

import json
import platform
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from cluster.inventory import local_capability, local_cpus, local_gpus
from energyaware.errors import InputError
from energyaware.precision import Hardware
from energyaware.pruning.calibration import load_texts
from energyaware.store import Store
from energyaware.tasks.data import load_splits
from sweep.grid import calibration_of, data_ref
from sweep.plan import Plan, PlannedStage, make_plan
from sweep.sweep_file import dump

if TYPE_CHECKING:
    from rich.console import Console

    from energyaware.energy.carbon import Factors
    from energyaware.precision import Device
    from energyaware.rows import Row
    from sweep.config import Sweep
    from sweep.node_meter import Meters
    from sweep.schedule import StageSearcher
    from sweep.stage_actor import Job

RUN_EXTRA: Final = ("ray", "torch", "transformers", "peft", "bitsandbytes", "deepspeed", "codecarbon")
"""Libraries that only running needs."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    failed: int
    interrupted: bool


def resolve_hardware(sweep: Sweep) -> Hardware:
    """What workers compute on: as the sweep says, or cuda where this machine has an NVIDIA GPU."""
    device: Device = "cuda" if local_gpus() else "cpu"
    if sweep.resources.device != "auto":
        device = sweep.resources.device
    return Hardware(device, local_capability() if device == "cuda" else None)


def check(sweep: Sweep, store: Store, device: Device, address: str, source: Any) -> None:
    """Refuse before anything starts what cannot work.

    Raises:
        InputError: data that cannot be used, resources that this machine lacks, results measured on another device.
    """
    load_splits(data_ref(sweep), sweep.tasks)
    if (texts := calibration_of(sweep).data) is not None:
        load_texts(texts)
    for any_finished in list(store.finished())[:1]:  # one stands for all: this check keeps a folder to one device
        measured_on = store.stage_row(any_finished)["device"]
        if measured_on != device:
            problem = f"holds stages measured on {measured_on}; this run would measure on {device}: use --results"
            raise InputError(store.root, "results", problem)
    if address != "local":
        return
    wanted = sweep.resources.workers * sweep.resources.cpus_per_worker
    if wanted > local_cpus():
        raise InputError(
            source, "resources", f"asks for {wanted:g} CPUs for one trial; this machine has {local_cpus()}"
        )
    gpus = sweep.resources.workers * gpus_per_worker(sweep, device)
    if gpus > local_gpus():
        raise InputError(source, "resources", f"asks for {gpus} GPUs for one trial; this machine has {local_gpus()}")


def gpus_per_worker(sweep: Sweep, device: Device) -> int:
    """GPUs that a worker holds: as the sweep says, or one where it computes on one."""
    given = sweep.resources.gpus_per_worker
    return given if given is not None else int(device == "cuda")


def run(sweep: Sweep, store: Store, address: str, console: Console, source: Any) -> Ended:
    """Run what is left of a sweep.

    Raises:
        InputError: as `check`, or the energy settings cannot be used.
    """
    hardware = resolve_hardware(sweep)
    device = hardware.device
    plan = make_plan(sweep, hardware)
    check(sweep, store, device, address, source)
    store.create()
    store.write_text("sweep.yaml", _asked(sweep.model_copy(update={"results": str(store.root)})))
    store.write_plan([stage.row() for stage in plan])
    left = plan.minus(store.finished())
    infeasible = [stage for stage in plan if stage.state == "infeasible"]
    console.print(
        f"[bold]{sweep.name}[/]: {plan.trials} trials, {len(plan)} stages, {len(left)} to run"
        + (f", {len(infeasible)} infeasible" if infeasible else ""),
        highlight=False,
    )
    if not left:
        return Ended(0, interrupted=False)
    _require_run_extra()
    return _run_stages(sweep, plan, left, store, device, address, console, source)


def _require_run_extra() -> None:
    for library in RUN_EXTRA:
        if find_spec(library) is None:
            raise InputError("", "", f"{library} is not installed: pip install 'energyaware[run]'")


def _run_stages(
    sweep: Sweep,
    plan: Plan,
    left: tuple[PlannedStage, ...],
    store: Store,
    device: Device,
    address: str,
    console: Console,
    source: Any,
) -> Ended:
    """Join Ray and dispatch; the only part that needs the `run` extra."""
    from cluster.connect import join

    energy_factors = _factors(sweep, source)
    store.clear_incoming()
    with console.status("starting Ray"):
        machines = ExitStack()
        machines.enter_context(join(address))
    with machines, _interrupts():
        from cluster.gang import WorkerResources
        from sweep.feasibility import refused_by_models
        from sweep.progress import Progress
        from sweep.recover import take_over
        from sweep.schedule import StageSearcher, dispatch
        from sweep.stage_actor import Job

        take_over(store)
        run_name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
        with console.status(f"reading the nodes' idle power for {sweep.energy.idle_s:g} s"):
            meters = _start_meters(sweep, store, device, run_name, source)
        _prepare_models(left, meters, console)
        if refused := refused_by_models(left):
            plan = plan.refusing(refused)
            store.write_plan([stage.row() for stage in plan])
            left = plan.minus(store.finished())
            for reason in dict.fromkeys(refused.values()):
                console.print(f"infeasible: {reason}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        job = Job(
            sweep=sweep.name,
            stages={stage.stage_id: stage for stage in left},
            attempts=store.attempts(),
            store=store,
            workers=sweep.resources.workers,
            resources=WorkerResources(sweep.resources.cpus_per_worker, gpus_per_worker(sweep, device), device),
            meters=meters,
            factors=energy_factors,
        )
        feasible = sum(stage.state == "planned" for stage in plan)
        progress = Progress(feasible, left, meters, console)

        def listen(event: str, stage: PlannedStage, ended: Row) -> None:
            if event == "ended" and ended.get("unrecorded"):
                _record_lost(job, stage, ended["state"], ended["reason"])
            progress(event, stage, ended)

        searcher = StageSearcher(left, listen)
        interrupted = False
        try:
            with progress:
                if left:
                    dispatch(job, searcher)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            _close_accounts(job, searcher)  # whatever went wrong: a closed terminal fails in what is printed
    return Ended(progress.failed, interrupted)


def _factors(sweep: Sweep, source: Any) -> Factors:
    from energyaware.energy.carbon import factors

    with _naming(source):
        return factors(sweep.energy.settings())


@contextmanager
def _naming(source: Any) -> Iterator[None]:
    """Meters know the field that is wrong, and not which file it came from."""
    try:
        yield
    except InputError as problem:
        raise InputError(source, problem.field, problem.problem) from None


def _start_meters(sweep: Sweep, store: Store, device: Device, run_name: str, source: Any) -> Meters:
    from sweep.node_meter import start_meters

    settings, on_gpus = sweep.energy.settings(), device == "cuda"
    with _naming(source):
        return start_meters(settings, store, run=run_name, sweep=sweep.name, compute_on_gpus=on_gpus)


def _prepare_models(left: tuple[PlannedStage, ...], meters: Meters, console: Console) -> None:
    """Have the built-in base model in every node's cache before workers want it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from energyaware.builtin_model import ensure_builtin_model

    if not any(stage.spec.model.kind == "builtin" for stage in left):
        return
    with console.status("looking for the built-in base model; the first time it is made, in about half a minute"):
        cpus = {node["NodeID"]: node["Resources"].get("CPU", 1) for node in ray.nodes()}
        ray.get(
            [
                # All of a node's CPUs: Ray gives a task as many threads as it holds CPUs.
                ray.remote(num_cpus=cpus[node])(ensure_builtin_model)
                .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
                .remote()
                for node in meters
            ]
        )


def _close_accounts(job: Job, searcher: StageSearcher) -> None:
    """Record what was running when the run was stopped, and how the nodes add up."""
    import ray

    from sweep.node_meter import ANSWER_S
    from sweep.recover import take_over

    finished = job.store.finished()
    for stage in searcher.running:
        if stage.stage_id not in finished:
            _record_lost(job, stage, "interrupted", "the run was stopped")
    last_words = []
    for meter in job.meters.values():
        with suppress(ray.exceptions.RayError):  # a signal to all processes of the run ends the meters too
            last_words.append(ray.get(meter.actor.finish.remote(), timeout=ANSWER_S))
    take_over(job.store, last_words)


def _record_lost(job: Job, stage: PlannedStage, state: str, reason: str) -> None:
    """Record an attempt whose actor can no longer do so; nothing if it was waiting for workers."""
    from sweep.node_meter import end_lost, forget
    from sweep.record import Attempt, record_unfinished

    key = stage.stage_id, job.next_attempt(stage)
    energy = end_lost(job.meters.values(), key, job.store)
    if energy or state != "interrupted":
        started_at = min((row["started_at"] for row in energy), default=datetime.now(UTC))
        nodes = tuple(dict.fromkeys(row["node"] for row in energy))
        attempt = Attempt(stage, key[1], job.workers, nodes, started_at)
        record_unfinished(job.store, attempt, energy, state=state, reason=reason)
    forget(job.meters.values(), key)


def _asked(sweep: Sweep) -> str:
    """The sweep file as it is kept in the results, with versions and machine."""
    machine = {
        "written": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "energyaware": version("energyaware"),
        "python": platform.python_version(),
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": local_cpus(),
        "gpus": local_gpus(),
    }
    return f"# {json.dumps(machine)}\n{dump(sweep)}"


@contextmanager
def _interrupts() -> Iterator[None]:
    """Take a request to end (SIGTERM) and a closed terminal (SIGHUP) as Ctrl-C is taken.

    To be entered after Ray has set its own handlers.
    """

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
