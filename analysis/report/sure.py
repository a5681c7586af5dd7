"""How sure the ranking is: intervals, ties, and who depends on whom."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import polars as pl

from analysis.printing import share
from analysis.report.section import Section
from analysis.report.table import UNKNOWN, Cell, Column, Span, Table, cell, quantity
from analysis.show import Answer
from energyaware.errors import few

_ROWS: Final = 25
"""Of the ranking, whose intervals are listed."""

_WIDTH: Final = 100
"""Of the picture of an interval, in units of its drawing."""


def sure_section(answer: Answer) -> Section:
    """How firm the first place and the order are."""
    rows = answer.everything()
    tied = rows.filter(pl.col("tied_with_best").fill_null(value=False))
    points = []
    if tied.height > 1:
        points.append(f"Cannot be told apart from the best: {few(tied['label'][1:].to_list())}.")
    elif tied.height:
        points.append("No other configuration ties with the best.")
    points += _counted(rows, "interval_covers", "Intervals rest on")
    points += _counted(rows, "interval_reason", "No interval")
    points += _dependence(answer)
    return Section("sure", "How sure", [_ABOUT.format(level=share(answer.level))], points, tables=[_intervals(rows)])


_ABOUT: Final = (
    "Intervals hold {level} of what comes out when seeds, the repeats of each measurement and the examples of the "
    "test set, the same for all, are drawn anew. They do not cover what all measurements share, such as an error of "
    "the meter."
)


def _counted(rows: pl.DataFrame, column: str, what: str) -> Iterator[str]:
    for said, count in rows.group_by(column, maintain_order=True).len().drop_nulls().iter_rows():
        yield f"{what} ({count:,} of {rows.height:,} configurations): {said}."


def _dependence(answer: Answer) -> Iterator[str]:
    """What leaving one configuration out does to the order of the others."""
    for phi, without in answer.without.items():
        moved = without.filter("order_changed")
        if moved.is_empty():
            yield f"With phi {phi} no single configuration decides on the order of the others."
        for row in moved.iter_rows(named=True):
            yield f"With phi {phi}, without {answer.labels[row['left_out']]} {_change(row, answer.labels)}."


def _change(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    before, after = row["best_before"], row["best_after"]
    if before == after:
        return f"the order of the others changes, and {names[before]} stays their best"
    return f"{names[after]} comes before {names[before]}"


def _intervals(rows: pl.DataFrame) -> Table:
    columns = [
        Column("#", numeric=True),
        Column("configuration"),
        Column("R"),
        Column("rank"),
        Column("ranked by", "interval of what phi is computed from"),
        Column("quality"),
        Column("P(best)", "how often it has the highest R when drawn anew", numeric=True),
        Column("tied", "cannot be told apart from the best"),
        Column("replicates", "seeds x repeats that the interval rests on", numeric=True),
    ]
    best = rows.head(_ROWS)
    scores, energies, qualities = drawn(best, "score"), drawn(best, "energy", "ranked_by"), drawn(best, "rho")
    shown = [
        [
            cell(row["rank"]),
            cell(row["label"]),
            scores(row),
            between(row["rank_low"], row["rank_high"]),
            energies(row),
            qualities(row),
            probability(row["best_probability"]),
            cell(row["tied_with_best"]),
            cell(row["replicates"]),
        ]
        for row in best.iter_rows(named=True)
    ]
    more = f"The first {_ROWS} of {rows.height:,}; the ranking has all of them." if rows.height > _ROWS else None
    return Table("intervals", "Intervals of the best configurations", columns, shown, heading=1, more=more, sorted=True)


def drawn(rows: pl.DataFrame, name: str, point: str | None = None) -> Callable[[dict[str, Any]], Cell]:
    """Cells of an interval in words and as a picture, on one scale for all rows.

    Args:
        rows: all that the scale has to hold.
        name: of the columns `<name>_low` and `<name>_high`.
        point: the column of the value itself; `name` by default.
    """
    ends = [f"{name}_low", f"{name}_high"]
    values = pl.concat([rows[column] for column in (*ends, point or name)]).drop_nulls()
    lowest, highest = (float(end) if isinstance(end, float) else 0.0 for end in (values.min(), values.max()))

    def place(value: float) -> float:
        return round(_WIDTH * (value - lowest) / (highest - lowest), 1) if highest > lowest else _WIDTH / 2

    def shown(row: dict[str, Any]) -> Cell:
        low, high = (row[end] for end in ends)
        if low is None or high is None:
            return Cell(UNKNOWN)
        return between(low, high, Span(place(low), place(row[point or name]), place(high)))

    return shown


def between(low: float | None, high: float | None, span: Span | None = None) -> Cell:
    """An interval in words, sorted by its lower end."""
    if low is None or high is None:
        return Cell(UNKNOWN)
    low_end, high_end = quantity(float(low)), quantity(float(high))
    return Cell(f"{low_end.text} to {high_end.text}", sort=low_end.sort, span=span)


def probability(value: float | None) -> Cell:
    """In percent."""
    return Cell(UNKNOWN) if value is None else Cell(share(value), sort=format(value, "g"))
