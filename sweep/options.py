"""The command line's app, and what its commands have in common: arguments, formats, printing."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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


class RankedEnergy(StrEnum):
    """Whose joules are ranked."""

    gross = "gross"
    net = "net"


class RankedBy(StrEnum):
    """What of energy is ranked."""

    request = "request"
    token = "token"  # noqa: S105 - of a text
    correct = "correct"
    edp = "edp"
    carbon = "carbon"
    cost = "cost"


SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The sweep file.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A results folder, or its URL such as s3://bucket/sweep.")]
Folders = Annotated[
    list[str], typer.Argument(metavar="DIR", help="Results folders or their URLs; several are taken as one.")
]
Results = Annotated[
    str | None, typer.Option(metavar="DIR", help="Results folder or URL, in place of the sweep file's.")
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
Weight = Annotated[
    float | None, typer.Option(help="w of R = w*phi + (1-w)*rho, from 0 (quality) to 1 (energy).", show_default=False)
]
Requests = Annotated[
    int | None, typer.Option(help="Requests the fine-tuning's joules are spread over.", show_default=False)
]
Phi = Annotated[str | None, typer.Option(help="Normalisation of energy: minmax or ratio.", show_default=False)]
Metric = Annotated[
    RankedBy | None,
    typer.Option(
        help="What energy efficiency is computed from: joules per request, per token or per correct answer, "
        "energy-delay product, carbon or cost per request.",
        show_default=False,
    ),
]
JoulesRanked = Annotated[RankedEnergy, typer.Option(help="gross: joules as metered. net: those beyond idle power.")]
AllowMixed = Annotated[
    bool, typer.Option("--allow-mixed", help="Rank measured against estimated energy all the same, and say so.")
]
GpuKind = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="Only what was measured on GPUs with this in their name.", show_default=False),
]
Everything = Annotated[
    bool, typer.Option("--all", help="Rank all that is finished, also what the sweep file no longer asks for.")
]
Level = Annotated[float, typer.Option(help="Confidence of the intervals.")]


def asked_ranking(*directories: str) -> dict[str, Any]:
    """The ranking settings of the sweeps that the results belong to, as far as all agree; none without sweep files."""
    import yaml

    sweeps = [yaml.safe_load(asked_sweep(directory) or "") or {} for directory in directories]
    asked: list[dict[str, Any]] = [sweep.get("ranking") or {} for sweep in sweeps]
    names = ("weight", "requests", "phi", "metric", "allow_mixed")
    return {
        name: asked[0][name]
        for name in names
        if name in asked[0] and all(asked[0][name] == each.get(name) for each in asked)
    }


def ranking_options(
    directories: list[str],
    weight: float | None,
    requests: int | None,
    phi: str | None,
    metric: Any,
    energy: RankedEnergy,
    level: float,
    *,
    allow_mixed: bool,
    gpu_kind: str | None,
    everything: bool,
) -> dict[str, Any]:
    """What is given on the command line, and for what is not, what the sweep files say."""
    given = {"weight": weight, "requests": requests, "phi": phi, "metric": metric, "allow_mixed": allow_mixed or None}
    asked = asked_ranking(*directories) | {name: value for name, value in given.items() if value is not None}
    return asked | {"energy": energy.value, "level": level, "asked_only": not everything, "gpu_kind": gpu_kind}


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


def console(*, stderr: bool = False) -> Console:
    """To print on."""
    from rich.console import Console

    return Console(stderr=stderr)
