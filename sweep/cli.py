"""The command line. Each command reads as a sentence; libraries that take long to load are loaded where they run."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from energyaware.errors import EnergyawareError, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from sweep.config import Sweep

DONE, FAILED_STAGES, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What wrong arguments raise: click's own error, wherever this version of typer keeps click."""

app = typer.Typer(
    name="energyaware",
    help="Which precision and which pruning gives my model, on my task, the best quality per joule?",
    epilog="Try: energyaware run examples/quickstart.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(StrEnum):
    """How an answer is printed."""

    table = "table"
    json = "json"
    csv = "csv"


class PlanFormat(StrEnum):
    """How a plan is printed."""

    table = "table"
    json = "json"


class RankedEnergy(StrEnum):
    """Whose joules are ranked."""

    gross = "gross"
    net = "net"


SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The sweep file.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")]
Results = Annotated[str | None, typer.Option(metavar="DIR", help="Results folder, in place of the sweep file's.")]
Address = Annotated[
    str, typer.Option(help="local: Ray on this machine. auto or HOST:PORT: a running Ray cluster.", metavar="ADDRESS")
]


@app.command(epilog="Example: energyaware plan examples/quickstart.yaml --format json")
def plan(
    file: SweepFile,
    results: Results = None,
    form: Annotated[PlanFormat, typer.Option("--format", help="How to print it.")] = PlanFormat.table,
) -> None:
    """Show the stages of a sweep: what is shared, done, infeasible and why. Runs nothing."""
    from energyaware.store import Store
    from sweep.plan import make_plan
    from sweep.runner import resolve_hardware
    from sweep.show_plan import as_json, as_table
    from sweep.sweep_file import load

    sweep = load(file)
    stages = make_plan(sweep, resolve_hardware(sweep))
    finished = Store(results or sweep.results).finished()
    if form is PlanFormat.json:
        print(as_json(sweep, stages, finished))
    else:
        _console().print(as_table(sweep, stages, finished))


@app.command(epilog="Example: energyaware run examples/quickstart.yaml --results results/quickstart")
def run(file: SweepFile, results: Results = None, address: Address = "local") -> None:
    """Run a sweep, and go on where an earlier run of it stopped; then show the ranking."""
    from sweep.sweep_file import load

    _run(load(file), results, address, file)


@app.command(epilog="Example: energyaware resume results/quickstart")
def resume(directory: Folder, address: Address = "local") -> None:
    """Go on with a sweep from its results folder alone."""
    from sweep.sweep_file import load

    asked = directory / "sweep.yaml"
    if not asked.exists():
        raise InputError(directory, "", "holds no sweep.yaml: not a results folder of energyaware run")
    _run(load(asked), str(directory), address, asked)


def _run(sweep: Sweep, results: str | None, address: str, source: Path) -> None:
    from analysis.comparable import NotComparable
    from energyaware.store import Store
    from sweep.runner import run as run_sweep

    console = _console(stderr=True)
    store = Store(results or sweep.results)
    ended = run_sweep(sweep, store, address, console, source)
    if ended.interrupted:
        console.print(f"stopped; the same command, or [bold]energyaware resume {store.root}[/], goes on from here")
        raise typer.Exit(INTERRUPTED)
    try:
        _show_ranking(store.root, _asked_ranking(store.root), Format.table)
    except NotComparable as problem:
        console.print(f"not ranked: {problem}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    console.print(f"results in {store.root}", highlight=False, soft_wrap=True)
    if ended.failed:
        raise typer.Exit(FAILED_STAGES)


@app.command(epilog="Example: energyaware status results/quickstart")
def status(
    directory: Folder,
    form: Annotated[PlanFormat, typer.Option("--format", help="How to print it.")] = PlanFormat.table,
) -> None:
    """Tell what is done, running, failed and left, joules spent and lost, whether nodes add up, and the time left."""
    from analysis.load import load
    from analysis.status import as_json, as_table
    from analysis.status import status as status_of

    found = status_of(load(directory))
    if form is PlanFormat.json:
        print(as_json(found))
    else:
        _console().print(as_table(found), soft_wrap=True)


@app.command(epilog="Example: energyaware rank results/quickstart --weight 0.7 --requests 1000000 --format json")
def rank(
    directory: Folder,
    weight: Annotated[
        float | None, typer.Option(help="w of R = w*phi + (1-w)*rho, from 0 (quality) to 1 (energy).")
    ] = None,
    requests: Annotated[int | None, typer.Option(help="Requests the fine-tuning's joules are spread over.")] = None,
    phi: Annotated[str | None, typer.Option(help="Normalisation of energy: minmax or ratio.")] = None,
    energy: Annotated[
        RankedEnergy, typer.Option(help="gross: joules as metered. net: those beyond idle power.")
    ] = RankedEnergy.gross,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Rank measured against estimated energy all the same, and say so.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
) -> None:
    """Rank configurations by quality and joules per request. Defaults are those of the sweep file."""
    asked = _asked_ranking(directory)
    given = {"weight": weight, "requests": requests, "phi": phi, "allow_mixed": allow_mixed or None}
    options = asked | {name: value for name, value in given.items() if value is not None}
    _show_ranking(directory, options | {"energy": energy.value}, form)


@app.command(
    epilog='Example: energyaware query results/quickstart "SELECT kind, sum(energy_j) FROM stages GROUP BY kind"'
)
def query(
    directory: Folder,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A SELECT over the tables.")],
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
) -> None:
    """Ask the tables in SQL: plan, stages, attempts, epochs, quality, energy, nodes, ranking. Reads only."""
    from analysis.load import load
    from analysis.query import query as ask
    from analysis.query import render

    _print(render(ask(load(directory), sql, **_asked_ranking(directory)), form.value))


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
    console = _console()
    console.print(as_table(report))
    for note in notes(report):  # unbroken, so that commands in it can be copied
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def _show_ranking(directory: Path, options: dict[str, Any], form: Format) -> None:
    from analysis.load import load
    from analysis.show import answer, as_csv, as_json, as_table

    found = answer(load(directory), **options)
    _print({Format.json: as_json, Format.csv: as_csv, Format.table: as_table}[form](found))


def _asked_ranking(directory: Path) -> dict[str, Any]:
    """The ranking settings of the sweep that the folder belongs to; none where it has no sweep file."""
    import yaml

    path = directory / "sweep.yaml"
    content = yaml.safe_load(path.read_text()) if path.exists() else None
    asked: dict[str, Any] = (content or {}).get("ranking") or {}
    return {name: asked[name] for name in ("weight", "requests", "phi", "allow_mixed") if name in asked}


def _print(text: Any) -> None:
    if isinstance(text, str):
        print(text.rstrip("\n"))
    else:
        _console().print(text)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def main() -> NoReturn:
    """Run the command line: errors of the user's input are one line and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except EnergyawareError as problem:
        _refuse(str(problem))
    except USAGE_ERROR as problem:
        if type(problem).__name__ == "NoArgsIsHelpError":  # the help is its message, printed already
            sys.exit(BAD_INPUT)
        _refuse(f"{problem.format_message()} Try --help.")
    sys.exit(code or DONE)


def _refuse(problem: str) -> NoReturn:
    print(f"error: {' '.join(problem.split())}", file=sys.stderr)
    sys.exit(BAD_INPUT)
