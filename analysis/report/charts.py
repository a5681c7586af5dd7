"""Figures as the page embeds them: one specification each, drawn by Vega in the reader's browser."""

from collections.abc import Sequence
from typing import Any, Final, get_args

from analysis.figures.figure import Figure
from analysis.figures.theme import Theme, config
from analysis.report.section import Picture, Section
from analysis.report.table import Table, table_of

_ROWS: Final = 200
"""Of a figure's data, that stand in its table."""


def figures_section(figures: Sequence[Figure]) -> Section:
    """All figures, and which of them there is nothing to draw for."""
    return Section("figures", "Figures", [_ABOUT], _missing(figures), figures=_pictures(figures))


_ABOUT: Final = (
    "Point at a mark to read its values. Click an entry of a legend to pick it, or take it from the list below the "
    "figure where there is one. Below each figure its data is a table, which has the values for who does not point."
)


def _pictures(figures: Sequence[Figure]) -> list[Picture]:
    """The figures that there is something to draw for, with their data as a table."""
    return [
        Picture(figure.name, figure.title, figure.caption, _table(figure))
        for figure in figures
        if figure.chart is not None
    ]


def _missing(figures: Sequence[Figure]) -> list[str]:
    """Which figures there is nothing to draw for, and why."""
    return [f"{figure.title}: {figure.reason}" for figure in figures if figure.chart is None]


def specifications(figures: Sequence[Figure]) -> dict[str, Any]:
    """What the page's script draws: specifications by name, and how they look by theme."""
    drawn = {figure.name: figure.specification() for figure in figures if figure.chart is not None}
    for specification in drawn.values():
        del specification["config"]
    return {"specifications": drawn, "configurations": {theme: config(theme) for theme in get_args(Theme)}}


def _table(figure: Figure) -> Table:
    headings = {name: name.replace("_", " ") for name in figure.data.columns}
    return table_of(figure.data, f"data-{figure.name}", figure.title, headings, most=_ROWS)
