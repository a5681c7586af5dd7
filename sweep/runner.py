"""Running a sweep: what is asked for, minus what is there, held against other runs."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from analysis.load import load
from cluster.inventory import local_capability, local_cpus, local_gpus
from cluster.local_node import local_node
from energyaware.errors import InputError
from energyaware.lease import Lease, this_process
from energyaware.points import reached
from energyaware.precision import Hardware
from energyaware.pruning.calibration import load_texts
from energyaware.store import Store
from energyaware.tasks.data import load_splits
from energyaware.versions import versions
from sweep.budget import keeper
from sweep.ended import Ended
from sweep.estimate import at_once_here, forecast
from sweep.extra import require_run_extra
from sweep.funnel import left_of_rounds
from sweep.grid import calibration_of, data_ref
from sweep.left import Left, Wish, idle_rows
from sweep.needs import refuse_unmetered, refused_by_machines, settle
from sweep.plan import Plan, make_plan
from sweep.recover import forget_checkpoints, take_over
from sweep.sweep_file import dump

if TYPE_CHECKING:
    from rich.console import Console

    from energyaware.precision import Device
    from sweep.config import Sweep

RUN_EXTRA: Final = ("ray", "torch", "transformers", "peft", "bitsandbytes", "deepspeed", "codecarbon")
"""Libraries that only running needs."""


def resolve_hardware(sweep: Sweep, address: str = "local") -> Hardware:
    """What workers compute on: as the sweep says, or cuda where this machine has an NVIDIA GPU.

    What the GPUs of a cluster can do is not known before it is joined (`sweep.needs.refused_by_machines`).
    """
    device: Device = "cuda" if local_gpus() else "cpu"
    if sweep.resources.device != "auto":
        device = sweep.resources.device
    return Hardware(device, local_capability() if device == "cuda" and address == "local" else None)


def check_device(store: Store, device: Device) -> None:
    """Refuse to mix devices in one set of results.

    Raises:
        InputError: they were measured on another.
    """
    for any_finished in list(store.finished())[:1]:  # one stands for all: this check keeps a folder to one device
        measured_on = store.stage_row(any_finished)["device"]
        if measured_on != device:
            problem = f"holds stages measured on {measured_on}; this run would measure on {device}: use --results"
            raise InputError(store.url, "results", problem)


def check(sweep: Sweep, plan: Plan, device: Device, address: str, source: Any) -> None:
    """Refuse before anything starts what cannot work.

    Raises:
        InputError: data that cannot be used, libraries that this machine lacks, no stage fits on it, or would have
            no joules.
    """
    refuse_unmetered(sweep.energy.components, gpus_per_worker(sweep, device), source)
    load_splits(data_ref(sweep), sweep.tasks)
    if (texts := calibration_of(sweep).data) is not None:
        load_texts(texts)
    require_run_extra(RUN_EXTRA)
    if address == "local":
        nodes = (local_node(),)
        needs = settle(sweep.resources, gpus_per_worker(sweep, device), nodes, source)
        refused_by_machines(plan.stages, needs, nodes, source)


def gpus_per_worker(sweep: Sweep, device: Device) -> int:
    """GPUs that a worker holds: as the sweep says, or one where it computes on one."""
    given = sweep.resources.gpus_per_worker
    return given if given is not None else int(device == "cuda")


def run(
    sweep: Sweep, store: Store, address: str, console: Console, source: Any, wish: Wish, *, ship_code: bool = False
) -> Ended:
    """Run what is left of a sweep.

    Raises:
        InputError: as `check_device` and `check`, or another run holds the results.
        StorageError: the results cannot be written to any more.
    """
    hardware = resolve_hardware(sweep, address)
    plan = make_plan(sweep, hardware)
    check_device(store, hardware.device)
    if wish.rerun_changed or plan.minus(store.finished()):
        check(sweep, plan, hardware.device, address, source)
    store.create()
    with Lease.take(store.files, this_process()) as lease:
        store.fence(lease.number)
        reached("lease-taken")
        take_over(store)
        forget_checkpoints(store)
        store.clear_incoming()
        store.write_text("sweep.yaml", _asked(sweep.model_copy(update={"results": store.url})))
        store.write_plan([stage.row() for stage in plan])
        reached("plan-written")
        results = load(store.url)
        grid = plan
        plan, left, held = left_of_rounds(sweep, grid, results, versions(), wish)
        if plan is not grid:
            store.write_plan([stage.row() for stage in plan])
            results = load(store.url)
        _tell(sweep, plan, left, console)
        if not left.tries:
            return Ended(len(left.failed), interrupted=False, results=results)
        gpus = gpus_per_worker(sweep, hardware.device)
        ahead = forecast(sweep, left.stages, results, at_once_here(sweep, gpus) if address == "local" else None)
        for line in ahead.lines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        budget = keeper(sweep, results, gpus)
        if budget.none_may_start([stage for stage in left.stages if stage.stage_id not in held]):
            return Ended(len(left.failed), interrupted=False, over_budget=True)
        from sweep.session import Setting, run_stages

        idle = idle_rows(results)
        return run_stages(
            Setting(
                *(sweep, plan, left, store, lease, hardware.device, gpus, address, source, idle, budget),
                held=held,
                ship_code=ship_code,
            ),
            console,
        )


def _tell(sweep: Sweep, plan: Plan, left: Left, console: Console) -> None:
    """What is about to run, and what is not."""
    infeasible = sum(stage.state == "infeasible" for stage in plan)
    console.print(
        f"[bold]{sweep.name}[/]: {plan.trials} trials, {len(plan)} stages, {len(left.tries)} to run"
        + (f", {len(left.again)} of them again" if left.again else "")
        + (f", {infeasible} infeasible" if infeasible else ""),
        highlight=False,
    )
    for row in left.failed:
        told = f"not tried again: {row['stage_id']} {row['state']}: {row['reason']}"
        console.print(told, style="red", highlight=False, markup=False, soft_wrap=True)
    if left.failed:
        console.print("--retry-failed tries these again", style="red", highlight=False)
    for line in left.changed:
        console.print(f"other versions: {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if left.changed:
        console.print("--rerun-changed measures these again", style="yellow", highlight=False)


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
