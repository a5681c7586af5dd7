"""The command that looks at a cluster before anything is run on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from energyaware.errors import InputError
from energyaware.files import INCOMING
from sweep.extra import require_run_extra
from sweep.options import Address, PlanFormat, Results, cluster, console

if TYPE_CHECKING:
    from energyaware.store import Store
    from sweep.preflight import Asked

BAD_INPUT = 2

CheckedFile = Annotated[
    Path | None, typer.Argument(metavar="SWEEP.yaml", help="Look too whether its models, data and results are there.")
]


@cluster.command(epilog="Example: energyaware cluster check sweep.yaml --address 10.0.0.1:6379 --results /shared/sweep")
def check(
    file: CheckedFile = None,
    address: Address = "local",
    results: Results = None,
    timeout: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="That a node has to answer.")] = 60,
    form: Annotated[PlanFormat, typer.Option("--format", help="How to print it.")] = PlanFormat.table,
) -> None:
    """Ask every node what it has, and whether stages could run on it. Runs nothing; exit code 2 if they could not.

    `energyaware run` asks the same before it starts.
    """
    require_run_extra(["ray"])
    from sweep.preflight import look
    from sweep.show_nodes import WIDTH, as_json, as_table

    asked = _asked(file, results, address)
    with ExitStack() as held:
        if asked.store:
            held.enter_context(_made(asked.store))
        if address != "local":
            _join(held, address)
        with console(stderr=True).status("asking every node"):
            found = look(asked, here=address == "local", answer_s=timeout)
    if form is PlanFormat.json:
        print(as_json(found))
    else:
        out = console()
        out.width = max(out.width, WIDTH)
        out.print(as_table(found))
        for problem in found.problems:
            style = "red" if problem.refuses else "yellow"
            out.print(problem.line, style=style, highlight=False, markup=False, soft_wrap=True)
    if any(problem.refuses for problem in found.problems):
        raise typer.Exit(BAD_INPUT)


def _asked(file: Path | None, results: str | None, address: str) -> Asked:
    from energyaware.energy.base import MeterSettings
    from energyaware.store import Store
    from sweep.needs import refuse_unmetered
    from sweep.plan import make_plan
    from sweep.preflight import Asked
    from sweep.runner import gpus_per_worker, resolve_hardware
    from sweep.sweep_file import load

    if file is None:
        store = Store(results) if results else None
        return Asked((), store, MeterSettings().components)
    sweep = load(file)
    hardware = resolve_hardware(sweep, address)
    refuse_unmetered(sweep.energy.components, gpus_per_worker(sweep, hardware.device), file)
    stages = make_plan(sweep, hardware).minus(())
    store = Store(results or sweep.results)
    specs = [stage.spec for stage in stages]
    alone = sweep.resources.exclusive != "none"
    return Asked(specs, store, sweep.energy.components, sweep.checkpoints.keep, refuse_shared_gpus=alone)


def _join(held: ExitStack, address: str) -> None:
    from cluster.connect import join

    try:
        held.enter_context(join(address))
    except ConnectionError as problem:
        raise InputError("--address", address, str(problem)) from None


@contextmanager
def _made(store: Store) -> Iterator[None]:
    """Have the results folder inside the block; one that was not there before and stays empty goes again."""
    root = store.root
    made = [] if root is None else [folder for folder in (root, *root.parents) if not folder.exists()]
    store.create()
    try:
        yield
    finally:
        if root is not None:
            with suppress(OSError):  # not empty: a run has begun meanwhile
                for folder in (root / INCOMING, *made):
                    folder.rmdir()
