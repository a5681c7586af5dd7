"""The command that makes a page of results: report. It loads neither Ray nor torch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sweep.options import Folders, app, console
from sweep.ranking_options import RankingOptions, takes_ranking_options

Page = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the page.")]

_BYTES_PER_MIB = 2**20


@app.command(
    epilog="Examples: energyaware report results/quickstart -o report.html\n\n"
    "energyaware report results/*/ --weight 0.7 --requests 1000000"
)
@takes_ranking_options
def report(directories: Folders, *, output: Page = Path("report.html"), ranking: RankingOptions) -> None:
    """Write one HTML file with the answer, the ranking, figures and how sure it is. It opens without a network.

    Defaults are those of the sweep file.
    """
    from analysis.load import load
    from analysis.report import report as page_of
    from sweep.output import refuse_inside, save

    results = load(*directories)
    refuse_inside(results.folders.values(), output)
    page = page_of(results, command=_command(directories, output, ranking), **ranking).encode()
    save(page, output, results.folders.values())
    size = f"{len(page) / _BYTES_PER_MIB:.1f} MiB"
    console().print(f"{output}: {size}", highlight=False, markup=False, soft_wrap=True)


def _command(directories: list[str], output: Path, ranking: RankingOptions) -> str:
    """What makes the same page again, whatever the sweep file says by then."""
    words = ["energyaware", "report", *directories, "-o", str(output)]
    for name, value in ranking.items():
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
