"""Options of all commands that rank: rank, figures, report."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sweep.options import Everything, asked_ranking

if TYPE_CHECKING:
    from analysis.results import AnswerChoices as RankingOptions
else:  # typer evaluates annotations, and a command's help is not worth loading polars for
    RankingOptions = dict

__all__ = ["RankingOptions", "takes_ranking_options"]


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


def ranking_options(
    directories: list[str],
    *,
    weight: Annotated[
        float | None,
        typer.Option(help="w of R = w*phi + (1-w)*rho, from 0 (quality) to 1 (energy).", show_default=False),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="Requests the fine-tuning's joules are spread over.", show_default=False)
    ] = None,
    phi: Annotated[
        str | None, typer.Option(help="Normalisation of energy: minmax or ratio.", show_default=False)
    ] = None,
    metric: Annotated[
        RankedBy | None,
        typer.Option(
            help="What energy efficiency is computed from: joules per request, per token or per correct answer, "
            "energy-delay product, carbon or cost per request.",
            show_default=False,
        ),
    ] = None,
    energy: Annotated[
        RankedEnergy, typer.Option(help="gross: joules as metered. net: those beyond idle power.")
    ] = RankedEnergy.gross,
    level: Annotated[float, typer.Option(help="Confidence of the intervals.")] = 0.95,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Rank measured against estimated energy all the same, and say so.")
    ] = False,
    gpu_kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="Only what was measured on GPUs with this in their name.", show_default=False
        ),
    ] = None,
    everything: Everything = False,
) -> RankingOptions:
    """What is given on the command line, and for what is not, what the sweep files say."""
    given = {"weight": weight, "requests": requests, "phi": phi, "metric": metric, "allow_mixed": allow_mixed or None}
    asked = asked_ranking(*directories) | {name: value for name, value in given.items() if value is not None}
    asked |= {"energy": energy.value, "level": level, "asked_only": not everything, "gpu_kind": gpu_kind}
    return cast(RankingOptions, asked)


def takes_ranking_options(command: Callable[..., None]) -> Callable[..., None]:
    """Have a command take the options above in place of its parameter `ranking`, which gets what they come to.

    Args:
        command: has a parameter `directories`, and `ranking` where the options are to stand in its help.
    """
    _, *options = signature(ranking_options, eval_str=True).parameters.values()

    @wraps(command)
    def with_options(directories: list[str], **given: Any) -> None:
        chosen = {option.name: given.pop(option.name) for option in options}
        command(directories, ranking=ranking_options(directories, **chosen), **given)

    def in_place(parameter: Parameter) -> list[Parameter]:
        return options if parameter.name == "ranking" else [parameter]

    own = signature(command, eval_str=True)
    shown = [each for parameter in own.parameters.values() for each in in_place(parameter)]
    with_options.__dict__["__signature__"] = own.replace(parameters=shown)
    return with_options
