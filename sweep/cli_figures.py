"""The command that draws results: figures. It loads neither Ray nor torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from energyaware.errors import InputError
from sweep.options import Folders, app
from sweep.ranking_options import RankingOptions, takes_ranking_options


class PictureFormat(StrEnum):
    """How a figure is kept."""

    svg = "svg"
    png = "png"


class Ground(StrEnum):
    """What a figure is drawn on."""

    light = "light"
    dark = "dark"


Pictures = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write them.")]
Only = Annotated[list[str] | None, typer.Option(metavar="NAME", help="This figure alone. May be given several times.")]
Stage = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Whose power over time is drawn; by default the longest fine-tuning's."),
]


@app.command(
    epilog="Examples: energyaware figures results/quickstart -o pictures; "
    "energyaware figures results/quickstart --only pareto --only weights --format png"
)
@takes_ranking_options
def figures(
    directories: Folders,
    *,
    output: Pictures = Path("figures"),
    form: Annotated[PictureFormat, typer.Option("--format", help="What to write.")] = PictureFormat.svg,
    theme: Annotated[Ground, typer.Option(help="What to draw on.")] = Ground.light,
    only: Only = None,
    stage: Stage = None,
    ranking: RankingOptions,
) -> None:
    """Draw results, each figure in a file of its own, with its caption. Says why a figure is left out.

    Defaults are those of the sweep file.
    """
    from analysis.figures import figures as figures_of
    from analysis.load import load
    from sweep.output import refuse_inside, save

    results = load(*directories)
    refuse_inside(results.folders.values(), output)
    drawn = figures_of(results, only=only or (), stage=stage, **ranking)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError("--output", "", f"{output}: is no folder, as figures are files in one") from None
    except OSError as problem:
        raise InputError("--output", "", f"{output}: {problem.strerror}") from None
    for figure in drawn.values():
        file = output / f"{figure.name}.{form.value}"
        if figure.reason:
            older = f"; {file} is of an earlier call" if file.exists() else ""
            print(f"left out: {figure.name}: {figure.reason}{older}")
            continue
        picture = figure.png(theme.value) if form is PictureFormat.png else figure.svg(theme.value).encode()
        save(picture, file, results.folders.values())
        print(file)
