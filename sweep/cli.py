"""The command line. Each command reads as a sentence; libraries that take long to load are loaded where they run."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

import sweep.cli_check
import sweep.cli_figures
import sweep.cli_launch
import sweep.cli_report
import sweep.cli_statistics  # noqa: F401 - they register their commands
from energyaware.errors import EnergyawareError, InputError, StorageError
from sweep.cli_results import show_ranking
from sweep.options import (
    Address,
    Detach,
    Folder,
    Format,
    PlanFormat,
    RerunChanged,
    Results,
    RetryFailed,
    ShipCode,
    SweepFile,
    app,
    asked_ranking,
    asked_sweep,
    console,
)

if TYPE_CHECKING:
    from sweep.config import Sweep
    from sweep.left import Wish

_CANNOT_TELL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""A disk that is full, or a terminal that is gone, where an answer was to go."""

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What wrong arguments raise: click's own error, wherever this version of typer keeps click."""


@app.command(epilog="Example: energyaware plan examples/quickstart.yaml --format json")
def plan(
    file: SweepFile,
    results: Results = None,
    form: Annotated[PlanFormat, typer.Option("--format", help="How to print it.")] = PlanFormat.table,
) -> None:
    """Show the stages of a sweep: what is shared, done, infeasible and why, and what they will take. Runs nothing."""
    from energyaware.store import Store
    from sweep.estimate import at_once_here, earlier, forecast
    from sweep.funnel import left_of_rounds
    from sweep.left import Wish
    from sweep.plan import make_plan
    from sweep.runner import gpus_per_worker, resolve_hardware
    from sweep.show_plan import as_json, as_table, as_text, not_run
    from sweep.sweep_file import load

    sweep = load(file)
    hardware, store = resolve_hardware(sweep), Store(results or sweep.results)
    stages, finished = make_plan(sweep, hardware), store.finished()
    before, to_run, ended = earlier(store.url), stages.minus(finished), {}
    if before:
        stages, left, _ = left_of_rounds(sweep, stages, before, {}, Wish())
        to_run, ended = left.stages, not_run(stages, left, before)
    at_once = at_once_here(sweep, gpus_per_worker(sweep, hardware.device))
    shown = sweep, stages, finished, forecast(sweep, to_run, before, at_once), ended
    if form is PlanFormat.json:
        print(as_json(*shown))
    elif (out := console()).is_terminal:
        out.print(as_table(*shown))
    else:
        print(as_text(*shown))


@app.command(epilog="Example: energyaware run examples/quickstart.yaml --results results/quickstart")
def run(
    file: SweepFile,
    results: Results = None,
    address: Address = "local",
    retry_failed: RetryFailed = False,
    rerun_changed: RerunChanged = False,
    ship_code: ShipCode = False,
    detached: Detach = False,
) -> None:
    """Run a sweep, and go on where an earlier run of it stopped; then show the ranking.

    Ctrl-C once: running fine-tunings leave a checkpoint, then the run stops. Twice: it stops at once.
    """
    from sweep.left import Wish
    from sweep.sweep_file import load

    sweep, wish = load(file), Wish(retry_failed, rerun_changed)
    if detached:
        _detach(file, results or sweep.results, address, wish, ship_code=ship_code)
    _run(sweep, results, address, file, wish, ship_code=ship_code)


@app.command(epilog="Example: energyaware resume results/quickstart --retry-failed")
def resume(
    directory: Folder,
    address: Address = "local",
    retry_failed: RetryFailed = False,
    rerun_changed: RerunChanged = False,
    ship_code: ShipCode = False,
    detached: Detach = False,
) -> None:
    """Go on with a sweep from its results alone."""
    from sweep.left import Wish
    from sweep.sweep_file import loads

    file = f"{directory.rstrip('/')}/sweep.yaml"
    try:
        asked = asked_sweep(directory)
    except UnicodeDecodeError as problem:
        raise InputError(file, "", f"cannot be read: {problem}") from None
    if asked is None:
        if Path(directory).is_file():
            raise InputError(directory, "", "is a file: give the folder of a sweep's results")
        raise InputError(directory, "", "holds no sweep.yaml: not a results folder of energyaware run")
    sweep, wish = loads(asked, file), Wish(retry_failed, rerun_changed)
    if detached:
        _detach(None, directory, address, wish, ship_code=ship_code)
    _run(sweep, directory, address, file, wish, ship_code=ship_code)


def _detach(file: Path | None, results: str, address: str, wish: Wish, *, ship_code: bool) -> NoReturn:
    from sweep.detach import detach

    _refuse_to_ship_here(address, ship_code=ship_code)
    raise typer.Exit(detach(file, results, address, wish.options(), console(), ship_code=ship_code))


def _refuse_to_ship_here(address: str, *, ship_code: bool) -> None:
    if ship_code and address == "local":
        raise InputError("--ship-code", "", "is for clusters: give --address; on this machine its own code is run")


def _run(sweep: Sweep, results: str | None, address: str, source: object, wish: Wish, *, ship_code: bool) -> None:
    from analysis.comparable import NotComparable
    from analysis.load import load
    from analysis.status import stopped_by_budget
    from energyaware.store import Store
    from sweep.runner import run as run_sweep

    _refuse_to_ship_here(address, ship_code=ship_code)
    out = console(steady=True)
    store = Store(results or sweep.results)
    ended = run_sweep(sweep, store, address, out, source, wish, ship_code=ship_code)
    if ended.stopped_by:
        raise StorageError(f"stopped: {ended.stopped_by}; the same command goes on from here")
    if ended.interrupted:
        out.print(f"stopped; the same command, or [bold]energyaware resume {store.url}[/], goes on from here")
        raise typer.Exit(INTERRUPTED)
    found = ended.results or load(store.url)
    try:
        show_ranking(found, asked_ranking(store.url), Format.table)
    except NotComparable as problem:
        out.print(f"not ranked: {problem}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    out.print(f"results in {store.url}", highlight=False, soft_wrap=True)
    if ended.over_budget:
        told = f"{stopped_by_budget(found)}; the same command with a larger budget goes on from here"
        out.print(told, style="yellow", highlight=False, markup=False, soft_wrap=True)
    if ended.failed or ended.over_budget:
        raise typer.Exit(FAILED)


@app.command(epilog="Example: energyaware compact results/quickstart")
def compact(directory: Folder) -> None:
    """Merge the many small files of results into few, which are read faster. May be interrupted at any time."""
    from energyaware.store import Store
    from sweep.compaction import compact_results

    console().print(compact_results(Store(directory)), highlight=False, soft_wrap=True)


@app.command(epilog="Example: energyaware meters --country USA --region california --seconds 5")
def meters(
    form: Annotated[PlanFormat, typer.Option("--format", help="How to print it.")] = PlanFormat.table,
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="Time over which power is read.")] = 1.0,
    country: Annotated[str | None, typer.Option(help="Emission factor of this ISO 3166-1 alpha-3 code.")] = None,
    region: Annotated[str | None, typer.Option(help="Of this province or state of it.")] = None,
) -> None:
    """Tell what this machine can measure, how, and what to do about what it cannot."""
    from energyaware.energy.base import MeterSettings
    from sweep.meters import as_json, as_table, look, notes

    report = look(MeterSettings(country=country, region=region), seconds)
    if form is PlanFormat.json:
        print(as_json(report))
        return
    out = console()
    out.print(as_table(report))
    for note in notes(report):  # unbroken, so that commands in it can be copied
        out.print(note, highlight=False, markup=False, soft_wrap=True)


def main() -> NoReturn:
    """Run the command line: errors of the user's input are one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except StorageError as problem:
        _refuse(str(problem), FAILED)
    except OSError as problem:
        if problem.errno not in _CANNOT_TELL:
            raise
        _refuse(f"cannot write: {problem.strerror}", FAILED)
    except EnergyawareError as problem:
        _refuse(str(problem))
    except USAGE_ERROR as problem:
        if type(problem).__name__ == "NoArgsIsHelpError":  # the help is its message, printed already
            sys.exit(BAD_INPUT)
        _refuse(f"{problem.format_message().replace('Value error, ', '')} Try --help.")
    sys.exit(code or DONE)


def _refuse(problem: str, code: int = BAD_INPUT) -> NoReturn:
    print(f"error: {' '.join(problem.split())}", file=sys.stderr)
    sys.exit(code)
