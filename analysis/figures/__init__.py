"""Figures of results, as Vega-Lite specifications that pages draw, and as SVG and PNG.

    drawn = figures(load("results/quickstart"), weight=0.7)
    drawn["pareto"].svg()
    drawn["pareto"].specification("dark")

Altair and vl-convert come with the extra `report`, and are imported when figures are asked for.
"""

from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import Any, Final

import polars as pl

from analysis.candidates import Energy
from analysis.figures.figure import Drawing, Figure, NothingToDraw
from analysis.figures.subject import Subject, printable
from analysis.load import Results
from analysis.metrics import Metric
from analysis.ranking import Phi
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
    weight: float = 0.5,
    requests: int = 10_000,
    phi: Phi = "minmax",
    *,
    energy: Energy = "gross",
    metric: Metric = "request",
    allow_mixed: bool = False,
    asked_only: bool = True,
    gpu_kind: str | None = None,
    level: float = 0.95,
    answer: Answer | None = None,
    only: Collection[str] = (),
    stage: str | None = None,
) -> dict[str, Figure]:
    """All figures of results, by name. Those for which the results hold nothing say why, in `Figure.reason`.

    Args:
        results: a loaded results folder.
        weight: as of `analysis.ranking.ranking`, and so are all that are not named here.
        requests: likewise.
        phi: likewise.
        energy: likewise.
        metric: likewise.
        allow_mixed: likewise.
        asked_only: likewise.
        gpu_kind: likewise.
        level: of the intervals.
        answer: what `analysis.show.answer` gave for the same arguments, where it is there already.
        only: names of the figures that are wanted; all of `TITLES` without any.
        stage: the beginning of the id of the stage whose power is drawn; else it is the longest fine-tuning.

    Raises:
        InputError: an argument is not allowed, or the extra `report` is not installed.
    """
    require_report_extra("figures")
    if unknown := [name for name in only if name not in TITLES]:
        raise InputError("figures", "only", f"{unknown[0]!r} is not allowed: one of {', '.join(TITLES)}")
    options: dict[str, Any] = {"weight": weight, "requests": requests, "phi": phi, "energy": energy, "metric": metric}
    options |= {"level": level, "allow_mixed": allow_mixed, "asked_only": asked_only, "gpu_kind": gpu_kind}
    subject = Subject(results, options, answer, stage)
    return {name: _figure(name, draw, subject) for name, draw in _drawn_by().items() if not only or name in only}


def require_report_extra(what: str) -> None:
    """Refuse in one line where a library of the extra `report` is missing.

    Raises:
        InputError: it is.
    """
    for library in ("altair", "vl_convert"):
        if find_spec(library) is None:
            raise InputError(what, "", f"needs {library}: pip install 'energyaware[report]'")


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


def _figure(name: str, draw: Callable[[Subject], Drawing], subject: Subject) -> Figure:
    try:
        drawing = draw(subject)
    except NothingToDraw as nothing:
        return Figure(name, TITLES[name], "", None, pl.DataFrame(), printable(nothing))
    except FileNotFoundError:
        raise InputError(subject.results.folder, "", "was changed while it was read: try again") from None
    return Figure(name, TITLES[name], drawing.caption, drawing.chart, drawing.data, None)
