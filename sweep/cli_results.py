"""Commands that read results: status, rank, query. They load neither Ray nor torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.options import Folder, Format, PlanFormat, RankedEnergy, app, asked_ranking, console, show

if TYPE_CHECKING:
    from analysis.load import Results


@app.command(epilog="Example: energyaware status results/quickstart")
def status(
    directory: Folder,
    form: Annotated[PlanFormat, typer.Option("--format", help="How to print it.")] = PlanFormat.table,
    follow: Annotated[bool, typer.Option("--watch", help="Stay, and show every change until the run ends.")] = False,
) -> None:
    """Tell what is done, running, failed and left, joules spent and lost, whether nodes add up, and the time left."""
    from analysis.load import load
    from analysis.status import as_json, as_table
    from analysis.status import status as status_of

    if follow:
        from analysis.watch import watch

        watch(lambda: status_of(load(directory)), console())
        return
    found = status_of(load(directory))
    if form is PlanFormat.json:
        print(as_json(found))
    else:
        console().print(as_table(found), soft_wrap=True)


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
    gpu_kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="Rank only what was measured on GPUs with this in their name.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Rank all that is finished, also what the sweep file no longer asks for.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
) -> None:
    """Rank configurations by quality and joules per request. Defaults are those of the sweep file."""
    from analysis.load import load

    asked = asked_ranking(directory)
    given = {"weight": weight, "requests": requests, "phi": phi, "allow_mixed": allow_mixed or None}
    options = asked | {name: value for name, value in given.items() if value is not None}
    options |= {"energy": energy.value, "asked_only": not everything, "gpu_kind": gpu_kind}
    show_ranking(load(directory), options, form)


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

    show(render(ask(load(directory), sql, **asked_ranking(directory)), form.value))


def show_ranking(results: Results, options: dict[str, Any], form: Format) -> None:
    """Print the ranking of results."""
    from analysis.show import answer, as_csv, as_json, as_table

    found = answer(results, **options)
    show({Format.json: as_json, Format.csv: as_csv, Format.table: as_table}[form](found))
