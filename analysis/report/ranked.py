"""The ranking as a table that sorts and filters."""

from collections.abc import Callable
from typing import Any, Final

import polars as pl

from analysis.metrics import EnergyMetric
from analysis.notes import BORROWED, MARKED
from analysis.report.sure import drawn, probability
from analysis.report.table import NONE, Cell, Column, Table, cell, quantity, score

_TIED: Final = "~"
"""Stands after the rank of a row that cannot be told apart from the best one."""

Row = dict[str, Any]
Shown = tuple[Column, Callable[[Row], Cell]]

_FOOTNOTES: Final = (
    "* simulated pruning saves nothing on dense kernels: the joules of its dense parent. ** simulated, without a dense "
    "parent: its own. ! a window behind it is marked, see the column marks"
)


def ranking_table(rows: pl.DataFrame, metric: EnergyMetric) -> Table:
    """All ranked configurations, best first. Columns that say the same of every row, or nothing, are left out.

    Args:
        rows: as `analysis.show.Answer.everything` returns them.
        metric: what their `ranked_by` holds.
    """
    columns = [
        (Column("#", f"rank; {_TIED} cannot be told apart from the best", numeric=True), _place),
        (Column("configuration"), lambda row: Cell(row["label"])),
        *_scores(rows),
        *_energies(rows, metric),
        *_metrics(rows),
        *_circumstances(rows),
    ]
    return Table(
        "ranking",
        "Configurations, best first",
        [column for column, _ in columns],
        [[show(row) for _, show in columns] for row in rows.iter_rows(named=True)],
        heading=1,
        sorted=True,
        searched=True,
        best=rows.filter(pl.col("rank") == 1).height,
    )


def _place(row: Row) -> Cell:
    return Cell(
        str(row["rank"]), sort=str(row["rank"]), mark=_TIED if row["tied_with_best"] and row["rank"] > 1 else None
    )


def _text(name: str, column: Column) -> Shown:
    return column, lambda row: cell(row[name])


def _number(name: str, column: str, meaning: str | None = None) -> Shown:
    return Column(column, meaning, numeric=True), lambda row: quantity(row[name])


def _score(name: str, heading: str, meaning: str) -> Shown:
    """Numbers from 0 to 1, with the same digits in all rows."""
    return Column(heading, meaning, numeric=True), lambda row: score(row[name])


def _varied(rows: pl.DataFrame, headings: dict[str, str]) -> list[Shown]:
    return [_text(name, Column(heading)) for name, heading in headings.items() if rows[name].n_unique() > 1]


def _known(rows: pl.DataFrame, name: str) -> bool:
    return rows[name].count() > 0


def _scores(rows: pl.DataFrame) -> list[Shown]:
    columns = [_score("score", "R", "w * phi + (1 - w) * rho: higher is better")]
    if _known(rows, "score_low"):
        columns.append((Column("R within", "interval of R"), drawn(rows, "score")))
    if _known(rows, "best_probability"):
        meaning = "how often it has the highest R when seeds, repeats and test examples are drawn anew"
        columns.append((Column("P(best)", meaning, numeric=True), lambda row: probability(row["best_probability"])))
    return [
        *columns,
        _score("rho", "quality", "rho: mean over the tasks of the mean of their metrics, from 0 to 1"),
        _score("phi", "phi", "energy efficiency over the compared set, from 0 to 1"),
        (Column("front", "on the Pareto front: no other is better in quality without taking more energy"), _front),
    ]


def _front(row: Row) -> Cell:
    return Cell("front" if row["on_front"] else NONE)


def _energies(rows: pl.DataFrame, metric: EnergyMetric) -> list[Shown]:
    def marked(row: Row) -> str | None:
        return BORROWED.get(row["energy_from"], "") + (MARKED if row["marks"] else "") or None

    def ranked_by(row: Row) -> Cell:
        return quantity(row["ranked_by"], mark=marked(row))

    unit, per = metric.unit or _currency(rows), metric.words.rpartition(" per ")[2]
    meaning = f"{metric.words}, what phi is computed from. {_FOOTNOTES}"
    columns: list[Shown] = [(Column(f"{unit} per {per}", meaning, numeric=True), ranked_by)]
    others = {
        "energy_j_per_request": ("J per request", "joules per request, fine-tuning spread over the requests included"),
        "finetune_energy_j": ("J tuning", "joules of the fine-tuning, mean over seeds; 0 for a base model"),
        "carbon_g_per_request": ("g CO2e per request", "grams of CO2 equivalent per request, PUE applied"),
        "cost_per_request": (f"{_currency(rows)} per request", "price, PUE applied"),
        "seconds_per_request": ("s per request", "seconds of serving per request"),
    }
    return columns + [
        _number(name, heading, meaning)
        for name, (heading, meaning) in others.items()
        if name != metric.column and _known(rows, name)
    ]


def _currency(rows: pl.DataFrame) -> str:
    currencies = rows["currency"].drop_nulls().unique().to_list()
    return currencies[0] if len(currencies) == 1 else "cost"


def _metrics(rows: pl.DataFrame) -> list[Shown]:
    """One column for each metric of each task."""
    named = rows.select(pl.col("quality").explode().struct.unnest()).select("task", "metric").drop_nulls().unique()

    def of(task: str, metric: str) -> Callable[[Row], Cell]:
        return lambda row: score(
            next((part["value"] for part in row["quality"] if (part["task"], part["metric"]) == (task, metric)), None)
        )

    return [
        (Column(f"{task}.{metric}", numeric=True), of(task, metric))
        for task, metric in named.sort("task", "metric").iter_rows()
    ]


def _circumstances(rows: pl.DataFrame) -> list[Shown]:
    columns = [_text("energy_kind", Column("energy", "measured by hardware, estimated by a model, or a mixture"))]
    if rows["marks"].list.len().sum():
        columns.append(
            _text("marks", Column("marks", "what the windows behind the joules were marked with", wide=True))
        )
    return [
        *columns,
        (Column("seeds", numeric=True), lambda row: cell(len(row["seeds"]))),
        *_varied(rows, {"devices": "devices"}),
    ]
