"""The tables of a results folder as Arrow schemas, and rows as Arrow tables."""

from typing import Final

import pyarrow as pa

from energyaware.rows import COLUMNS, SCHEMA_VERSION, Column, Row

_TYPES: Final[dict[str, pa.DataType]] = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "int": pa.int64(),
    "float": pa.float64(),
    "floats": pa.list_(pa.float64()),
    "flag": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}


def _field(column: Column) -> pa.Field:
    return pa.field(column.name, _TYPES[column.kind], metadata={"doc": column.doc})


SCHEMAS: Final[dict[str, pa.Schema]] = {
    table: pa.schema([_field(column) for column in columns]) for table, columns in COLUMNS.items()
}


def to_table(table: str, rows: list[Row]) -> pa.Table:
    """Rows of a table as an Arrow table of its schema.

    Raises:
        KeyError: a row has a column that the schema does not know.
    """
    schema = SCHEMAS[table]
    for row in rows:
        if unknown := row.keys() - set(schema.names):
            raise KeyError(f"columns not in {table}: {', '.join(sorted(unknown))}")
    return pa.Table.from_pylist([{"schema_version": SCHEMA_VERSION, **row} for row in rows], schema=schema)
