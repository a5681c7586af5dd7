"""The command that makes a page of results: report. It loads neither Ray nor torch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from energyaware.errors import InputError
from sweep.options import (
    AllowMixed,
    Everything,
    Folders,
    GpuKind,
    JoulesRanked,
    Level,
    Metric,
    Phi,
    RankedEnergy,
    Requests,
    Weight,
    app,
    console,
    ranking_options,
)

Page = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the page.")]

_BYTES_PER_MIB = 2**20


@app.command(
    epilog="Examples: energyaware report results/quickstart -o report.html\n\n"
    "energyaware report results/* --weight 0.7 --requests 1000000"
)
def report(
    directories: Folders,
    output: Page = Path("report.html"),
    weight: Weight = None,
    requests: Requests = None,
    phi: Phi = None,
    metric: Metric = None,
    energy: JoulesRanked = RankedEnergy.gross,
    level: Level = 0.95,
    allow_mixed: AllowMixed = False,
    gpu_kind: GpuKind = None,
    everything: Everything = False,
) -> None:
    """Write one HTML file with the answer, the ranking, figures and how sure it is. It opens without a network.

    Defaults are those of the sweep file.
    """
    from analysis.load import load
    from analysis.report import report as page_of

    options = ranking_options(
        directories,
        *(weight, requests, phi, metric, energy, level),
        allow_mixed=allow_mixed,
        gpu_kind=gpu_kind,
        everything=everything,
    )
    page = page_of(load(*directories), command=_command(directories, output, options), **options).encode()
    try:
        output.write_bytes(page)
    except OSError as problem:
        raise InputError("--output", str(output), f"cannot be written: {problem.strerror}") from None
    size = f"{len(page) / _BYTES_PER_MIB:.1f} MiB"
    console().print(f"{output}: {size}", highlight=False, markup=False, soft_wrap=True)


def _command(directories: list[str], output: Path, options: dict[str, Any]) -> str:
    """What makes the same page again, whatever the sweep file says by then."""
    words = ["energyaware", "report", *directories, "-o", str(output)]
    for name, value in options.items():
        match name, value:
            case _, None:
                pass
            case "asked_only", _:
                words += [] if value else ["--all"]
            case "allow_mixed", _:
                words += ["--allow-mixed"] if value else []
            case _:
                words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)
