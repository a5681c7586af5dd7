"""The command line's app, and what its commands have in common: arguments, formats, printing."""

from __future__ import annotations

import errno
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO, cast

import typer

from energyaware.errors import InputError, few

if TYPE_CHECKING:
    from rich.console import Console

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

cluster = typer.Typer(help="Check a cluster, and write the files that start one.", no_args_is_help=True)
app.add_typer(cluster, name="cluster")


class Format(StrEnum):
    """How an answer is printed."""

    table = "table"
    json = "json"
    csv = "csv"


class RowsFormat(StrEnum):
    """How rows are printed or written."""

    table = "table"
    json = "json"
    csv = "csv"
    parquet = "parquet"


class PlanFormat(StrEnum):
    """How a plan is printed."""

    table = "table"
    json = "json"


def _may_be(place: Any) -> Any:
    """Results folders that may be such as far as their names go: too long a name, or a link to itself, is none."""
    for each in [place] if isinstance(place, str) else place or []:
        try:
            Path(each).stat()
        except OSError as problem:
            if problem.errno in _NO_NAME:
                name = f"{each[:_SHOWN]}…" if len(each) > _SHOWN else each
                raise InputError(name, "", f"{problem.strerror}") from None
    return place


_NO_NAME: Final = (errno.ENAMETOOLONG, errno.ELOOP)
"""Of a folder. What anything else means, such as storage that is away, each command says."""

_SHOWN: Final = 100
"""Letters of a name that cannot be right."""

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The sweep file.")]
Folder = Annotated[
    str,
    typer.Argument(metavar="DIR", help="A results folder, or its URL such as s3://bucket/sweep.", callback=_may_be),
]
Folders = Annotated[
    list[str],
    typer.Argument(metavar="DIR", help="Results folders or their URLs; several are taken as one.", callback=_may_be),
]
Results = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Results folder or URL, in place of the sweep file's.", callback=_may_be),
]
Address = Annotated[
    str, typer.Option(help="local: Ray on this machine. auto or HOST:PORT: a running Ray cluster.", metavar="ADDRESS")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try again what failed, diverged or ran out of memory in earlier runs.")
]
RerunChanged = Annotated[
    bool, typer.Option("--rerun-changed", help="Measure again what was measured with other code or library versions.")
]
ShipCode = Annotated[
    bool, typer.Option("--ship-code", help="Have the cluster run this installation's code, whatever its nodes have.")
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Outlive this terminal: a Ray job on a cluster, a process of its own here.")
]
Everything = Annotated[
    bool, typer.Option("--all", help="Rank all that is finished, also what the sweep file no longer asks for.")
]


_RANKING: Final[dict[str, Any]] = {
    "weight": (int, float),
    "requests": int,
    "phi": str,
    "metric": str,
    "allow_mixed": bool,
}
"""What a sweep file says of a ranking, and its types."""


def asked_ranking(*directories: str) -> dict[str, Any]:
    """The ranking settings of the sweeps that the results belong to, as far as all agree; none without sweep files."""
    first, *others = map(_ranking_of, directories)
    return {name: value for name, value in first.items() if all(each.get(name) == value for each in others)}


def _ranking_of(directory: str) -> dict[str, Any]:
    """The ranking settings in a results folder. What is damaged there is named, and the defaults count."""
    import yaml

    try:
        sweep = yaml.safe_load(asked_sweep(directory) or "") or {}
        ranking = sweep.get("ranking") or {}
        asked = {name: ranking[name] for name in _RANKING if name in ranking}
        damaged = [f"ranking.{name}" for name, value in asked.items() if not isinstance(value, _RANKING[name])]
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        asked, damaged = {}, ["the file"]
    if damaged:
        problem = f"warning: {directory}/sweep.yaml: {few(damaged)} cannot be read; the ranking's defaults count"
        console(stderr=True).print(problem, markup=False, highlight=False, soft_wrap=True)
    return {name: value for name, value in asked.items() if isinstance(value, _RANKING[name])}


def asked_sweep(directory: str) -> str | None:
    """The sweep file as it is kept in the results."""
    from energyaware.store import Store

    return Store(directory).read_text("sweep.yaml")


def show(text: Any) -> None:
    """Print text as it is, anything else as rich draws it."""
    if isinstance(text, str):
        print(text.rstrip("\n"))
    else:
        console().print(text)


def console(*, stderr: bool = False, steady: bool = False) -> Console:
    """To print on; `steady`: on stderr, by a run that goes on where nothing can be printed."""
    from rich.console import Console

    from sweep.steady import Steady

    if steady and sys.stderr is not None:  # which it is where the shell closed it
        return Console(file=cast(TextIO, Steady(sys.stderr)))
    return Console(stderr=stderr or steady)
