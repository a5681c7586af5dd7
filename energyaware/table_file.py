"""A file of a table as rows of the present schema, or why it cannot be taken for one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from energyaware.arrow import SCHEMAS
from energyaware.rows import FILLED, SCHEMA_VERSION, not_of


class NotOurs(Exception):
    """A file that nothing is made of; the message says why."""


def rows_of(table: str, content: bytes) -> pa.Table:
    """A file's rows under the present schema, and its metadata.

    Args:
        table: that it is to be a file of.
        content: of the file.

    Raises:
        NotOurs: it is torn, foreign, newer than this program, or has what would be lost.
    """
    if not content:
        raise NotOurs("empty (0 bytes)")
    try:
        rows = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    except (pa.ArrowException, OSError):
        raise NotOurs("torn, or not a Parquet file") from None
    if why := not_of(table, rows.column_names):
        raise NotOurs(why)
    schema = SCHEMAS[table]
    if unknown := sorted(set(rows.column_names) - set(schema.names)):
        raise NotOurs(f"has columns that this version does not know: {', '.join(unknown)}")
    known = rows if rows.schema.equals(schema) else _under(schema, rows)
    versions = [version for version in known["schema_version"].to_pylist() if version is not None]
    if (version := max(versions, default=0)) > SCHEMA_VERSION:
        raise NotOurs(f"written under schema {version}, newer than {SCHEMA_VERSION}")
    if known[FILLED[table]].null_count == known.num_rows:
        raise NotOurs("not a table of ours")
    return known


def _under(schema: pa.Schema, rows: pa.Table) -> pa.Table:
    columns = [_column(rows, wanted) for wanted in schema]
    return pa.table(columns, schema=schema.with_metadata(rows.schema.metadata))


def _column(rows: pa.Table, wanted: pa.Field) -> pa.ChunkedArray:
    """A column under the type that it has now; null where it did not exist yet."""
    if wanted.name not in rows.column_names:
        return pa.chunked_array([pa.nulls(rows.num_rows, wanted.type)])
    column = rows[wanted.name]
    if column.type == wanted.type:
        return column
    try:
        if pa.types.is_integer(column.type) or pa.types.is_null(column.type):
            return column.cast(wanted.type)
    except pa.ArrowException:
        pass
    raise NotOurs(f"column {wanted.name} is of type {column.type}, not {wanted.type}")
