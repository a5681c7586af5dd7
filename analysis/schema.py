"""The tables of `energyaware.rows` as Polars schemas."""

from typing import Final

import polars as pl

from energyaware.rows import COLUMNS

_TYPES: Final[dict[str, pl.DataType]] = {
    "text": pl.String(),
    "texts": pl.List(pl.String),
    "int": pl.Int64(),
    "float": pl.Float64(),
    "floats": pl.List(pl.Float64),
    "flag": pl.Boolean(),
    "time": pl.Datetime("us", "UTC"),
}


def schema(table: str) -> pl.Schema:
    """Columns of a table, with their types."""
    return pl.Schema({column.name: _TYPES[column.kind] for column in COLUMNS[table]})


def no_rows(table: str) -> pl.DataFrame:
    """A table without rows."""
    return pl.DataFrame(schema=schema(table))


def times(table: str) -> list[str]:
    """Columns of a table that are moments."""
    return [column.name for column in COLUMNS[table] if column.kind == "time"]
