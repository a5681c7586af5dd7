"""Commands that read results: status, rank, query. They load neither Ray nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.options import Folder, Folders, Format, PlanFormat, RowsFormat, app, asked_ranking, console, show
from sweep.ranking_options import RankingOptions, takes_ranking_options

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


@app.command(
    epilog="Examples: energyaware rank results/quickstart --weight 0.7 --requests 1000000 --format json\n\n"
    "energyaware rank results/quickstart --metric edp --phi ratio --weights\n\n"
    "energyaware rank results/quickstart --break-even"
)
@takes_ranking_options
def rank(
    directories: Folders,
    *,
    ranking: RankingOptions,
    weights: Annotated[
        bool, typer.Option("--weights", help="Show who is best at which weight, and where the order changes.")
    ] = False,
    break_even: Annotated[
        bool, typer.Option("--break-even", help="Show from how many requests on another takes fewer joules.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
) -> None:
    """Rank configurations by quality and energy, and say how sure that is. Defaults are those of the sweep file."""
    from analysis.load import load

    show_ranking(load(*directories), ranking, form, weights=weights, break_even=break_even)


@app.command(
    epilog='Examples: energyaware query results/quickstart "SELECT kind, sum(energy_j) FROM stages GROUP BY kind"\n\n'
    'energyaware query results/*/ "SELECT sweep, precision, energy_j FROM stages" --format parquet -o stages.parquet'
)
def query(
    directories: Folders,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A SELECT over the tables.")],
    form: Annotated[RowsFormat, typer.Option("--format", help="How to print or write it.")] = RowsFormat.table,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file, in any format.")
    ] = None,
) -> None:
    """Ask the tables in SQL: plan, stages, attempts, epochs, quality, energy, nodes, ranking. Reads only."""
    from analysis.load import load
    from analysis.query import query as ask
    from analysis.query import render
    from sweep.output import put

    results = load(*directories)
    rows = ask(results, sql, **asked_ranking(*directories))
    put(render(rows, form.value), output, results.folders.values())


def show_ranking(
    results: Results, options: Mapping[str, Any], form: Format, *, weights: bool = False, break_even: bool = False
) -> None:
    """Print the ranking of results; JSON has all of it, whatever is asked for."""
    from analysis.ranking_table import as_table
    from analysis.show import answer, as_csv, as_json

    found = answer(results, **options)
    if form is Format.table:
        show(as_table(found, weights=weights, break_even=break_even))
    else:
        show({Format.json: as_json, Format.csv: as_csv}[form](found))
