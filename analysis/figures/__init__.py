"""Figures of results, as Vega-Lite specifications that pages draw, and as SVG and PNG.

    drawn = figures(load("results/quickstart"), weight=0.7)
    drawn["pareto"].svg()
    drawn["pareto"].specification("dark")

Altair and vl-convert come with the extra `report`, and are imported when figures are asked for.
"""

from collections.abc import Callable, Collection
from typing import Final, Unpack

import polars as pl

from analysis.extra import require_report_extra
from analysis.figures.figure import Drawing, Figure, NothingToDraw
from analysis.figures.subject import Subject, printable
from analysis.load import Results
from analysis.metrics import METRICS, EnergyMetric
from analysis.results import AnswerChoices
from analysis.show import Answer
from energyaware.errors import InputError

TITLES: Final = {
    "ranking": "Which configuration has the best quality per joule",
    "pareto": "Quality against energy",
    "weights": "Who is best at which weight of energy against quality",
    "break_even": "When has a fine-tuning paid for itself",
    "precision": "Energy and carbon of inference by precision",
    "quality": "Quality by precision",
    "pruning": "What pruning does to energy and quality",
    "energy_loss": "Validation loss against the energy of training",
    "token_lengths": "Lengths of the prompts",
    "components": "Energy by component, node and window",
    "lost": "Useful and lost energy",
    "power": "Power over time",
}
"""All figures by name, in the order in which they are read."""


def figures(
    results: Results,
    *,
    answer: Answer | None = None,
    only: Collection[str] = (),
    stage: str | None = None,
    **choices: Unpack[AnswerChoices],
) -> dict[str, Figure]:
    """All figures of results, by name. Those for which the results hold nothing say why, in `Figure.reason`.

    Args:
        results: a loaded results folder.
        answer: what `analysis.show.answer` gave for the same choices, where it is there already.
        only: names of the figures that are wanted; all of `TITLES` without any.
        stage: the beginning of the id of the stage whose power is drawn; else it is the longest fine-tuning.
        choices: how results are ranked, as of `analysis.show.answer`.

    Raises:
        InputError: an argument is not allowed, or the extra `report` is not installed.
    """
    require_report_extra("figures", ["altair", "vl_convert"])
    if unknown := [name for name in only if name not in TITLES]:
        raise InputError("figures", "only", f"{unknown[0]!r} is not allowed: one of {', '.join(TITLES)}")
    if stage is not None and only and "power" not in only:
        raise InputError(
            "figures", "stage", "is whose power is drawn: power is not among the figures that are asked for"
        )
    from altair.utils.schemapi import debug_mode

    subject = Subject(results, choices, answer, stage)
    metric = answer.metric if answer else choices.get("metric", "request")
    titles = _titles(METRICS.get(metric, METRICS["request"]))  # another is refused by whoever ranks by it
    with debug_mode(False):  # checks each part as it is made, which takes longer than to make it; tests check them all
        return {
            name: _figure(name, titles[name], draw, subject)
            for name, draw in _drawn_by().items()
            if not only or name in only
        }


def _titles(metric: EnergyMetric) -> dict[str, str]:
    """`TITLES`, which speak of energy, in words of what is ranked by."""
    if metric.what == "energy":
        return TITLES
    return TITLES | {
        "ranking": f"Which configuration has the best quality for its {metric.what}",
        "pareto": f"Quality against {metric.what}",
        "weights": f"Who is best at which weight of {metric.what} against quality",
    }


def _drawn_by() -> dict[str, Callable[[Subject], Drawing]]:
    from analysis.figures import joules, order, power, precisions, prunings, ranked, tradeoffs, training

    return {
        "ranking": ranked.ranking,
        "pareto": tradeoffs.pareto,
        "weights": order.weights,
        "break_even": tradeoffs.break_even,
        "precision": precisions.precision,
        "quality": precisions.quality,
        "pruning": prunings.pruning,
        "energy_loss": training.energy_loss,
        "token_lengths": training.token_lengths,
        "components": joules.components,
        "lost": joules.lost,
        "power": power.power,
    }


def _figure(name: str, title: str, draw: Callable[[Subject], Drawing], subject: Subject) -> Figure:
    try:
        drawing = draw(subject)
    except NothingToDraw as nothing:
        return Figure(name, title, "", None, pl.DataFrame(), printable(nothing))
    except FileNotFoundError:
        raise InputError(subject.results.folder, "", "was changed while it was read: try again") from None
    return Figure(name, title, drawing.caption, drawing.chart, drawing.data, None)
