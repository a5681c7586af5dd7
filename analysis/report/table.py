"""Tables as the page shows them: text to read, and numbers to sort by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import polars as pl

from analysis.printing import number

_SORTED_TO: Final = ".9g"
"""Digits of a number that rows are sorted by; the text has three."""

UNKNOWN: Final = "?"
NONE: Final = "\N{EN DASH}"

_FEW: Final = 4
"""A table of no more rows is seen at a glance."""

_TALL: Final = 15
"""A table of more rows scrolls in a box of its own."""


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        heading: what stands above it.
        meaning: what that means, where it is not plain.
        numeric: whether it holds numbers.
        wide: whether it holds long text.
        shown: makes a cell of a value, where `cell` does not.
    """

    heading: str
    meaning: str | None = None
    numeric: bool = False
    wide: bool = False
    shown: "Callable[[Any], Cell] | None" = None


@dataclass(frozen=True)
class Cell:
    """A cell: text to read; a number to sort by, as text, where the text is not enough; an interval to draw."""

    text: str
    sort: str | None = None
    span: "Span | None" = None
    mark: str | None = None


@dataclass(frozen=True)
class Span:
    """An interval and its point, from 0 to 100 of the width that it is drawn in."""

    low: float
    point: float
    high: float


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        name: unique in the page; part of its elements' ids.
        caption: what it shows.
        heading: index of the column that names a row.
        more: what is not shown, else None.
        sorted: whether rows come in the order of the first column.
        best: how many of the first rows stand out.
        searched: whether it can be filtered however short it is.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    heading: int = 0
    more: str | None = None
    sorted: bool = False
    best: int = 0
    searched: bool = False

    @property
    def tall(self) -> bool:
        """Whether it scrolls in a box of its own."""
        return len(self.rows) > _TALL

    @property
    def filters(self) -> bool:
        """Whether its rows can be filtered."""
        return self.tall or self.searched

    @property
    def sorts(self) -> bool:
        """Whether there are enough rows for an order to matter."""
        return self.searched or len(self.rows) > _FEW

    @property
    def meanings(self) -> list[tuple[str, str]]:
        """Headings that need an explanation, and that."""
        return [(column.heading, column.meaning) for column in self.columns if column.meaning]


def table_of(
    frame: pl.DataFrame,
    name: str,
    caption: str,
    headings: Mapping[str, str | Column],
    *,
    heading: int = 0,
    most: int | None = None,
) -> Table:
    """A table of some of the frame's columns, under other headings.

    Args:
        frame: the rows.
        name: of the table.
        caption: what it shows.
        headings: columns of the frame in order, each with its heading.
        heading: index of the column that names a row.
        most: rows that are shown; the caption of what is cut tells how many there are.
    """
    columns = [_column(frame[column], title) for column, title in headings.items()]
    shown = frame.select(*headings)
    listed = shown if most is None else shown.head(most)
    cells = [column.shown or cell for column in columns]
    rows = [[of(value) for of, value in zip(cells, row, strict=True)] for row in listed.iter_rows()]
    more = f"The first {most} of {shown.height:,} rows." if listed.height < shown.height else None
    return Table(name, caption, columns, rows, heading, more)


def _column(values: pl.Series, title: str | Column) -> Column:
    if isinstance(title, Column):
        return title
    return Column(title, numeric=values.dtype.is_numeric())


def cell(value: Any) -> Cell:
    """A value as people read it: three digits of a number, a list joined, a dash for what there is none of."""
    sort: str | None = None
    match value:
        case None:
            text = NONE
        case bool():
            text = "yes" if value else "no"
        case int():
            text, sort = f"{value:,}" if abs(value) >= _GROUPED else str(value), str(value)
        case float():
            return quantity(value)
        case datetime():
            text, sort = value.strftime("%Y-%m-%d %H:%M"), value.isoformat()
        case list() | tuple():
            text = ", ".join(map(str, value)) or NONE
        case _:
            text = str(value)
    return Cell(text, sort)


_GROUPED: Final = 10_000
"""From here on a whole number is written in groups of three digits."""


def quantity(value: float | None, mark: str | None = None) -> Cell:
    """A measured number; a question mark where it is unknown."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return Cell(UNKNOWN, mark=mark)
    return Cell(number(value), format(value, _SORTED_TO), mark=mark)


def score(value: float | None) -> Cell:
    """A number from 0 to 1, to three decimals."""
    return Cell(UNKNOWN) if value is None else Cell(f"{value:.3f}", format(value, _SORTED_TO))
