"""The command that looks for what drives energy and quality. It loads neither Ray nor torch."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sweep.options import Everything, Folders, Format, app, show


class Asked(StrEnum):
    """Responses that can be asked for, as `analysis.statistics.RESPONSES` names them."""

    energy = "energy"
    tuning = "tuning"
    quality = "quality"
    seconds = "seconds"


@app.command(epilog="Example: energyaware statistics results/quickstart --response energy")
def statistics(
    directories: Folders,
    response: Annotated[
        list[Asked] | None,
        typer.Option(
            help="energy: joules per request. tuning: joules of fine-tuning. quality: rho. seconds: per request. "
            "May be given several times; all by default."
        ),
    ] = None,
    everything: Everything = False,
    form: Annotated[Format, typer.Option("--format", help="How to print it; csv: effects alone.")] = Format.table,
) -> None:
    """Tell what drives energy and quality: effects with intervals, interactions, correlations, and how sure that is."""
    from analysis.load import load
    from analysis.statistics import statistics as statistics_of
    from analysis.statistics.show import as_csv, as_json, as_table

    asked = [one.value for one in response or Asked]
    found = statistics_of(load(*directories), asked, asked_only=not everything)
    show({Format.json: as_json, Format.csv: as_csv, Format.table: as_table}[form](found))
