"""Rows in files as `energyaware compact` leaves them, for `ranking_sets.py`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.once import part_of
from energyaware.arrow import SCHEMAS
from energyaware.compact import ROWS_PER_FILE
from energyaware.rows import COMPACTED, SCHEMA_VERSION

MERGED: Final = datetime(2026, 1, 2, tzinfo=UTC)


def write_merged(folder: Path, table: str, frame: pl.DataFrame, part: int = 0) -> None:
    """As many files as `energyaware compact` would make of the rows: none splits what a run wrote at once."""
    ends = frame.select(pl.struct(part_of(table)).rle_id().rle().struct.field("len").cum_sum()).to_series()
    start, number = 0, 0
    while start < frame.height:
        full = ends.filter(ends >= start + ROWS_PER_FILE)
        end = full[0] if full.len() else frame.height
        stamp = MERGED + timedelta(microseconds=1000 * part + number)
        name = f"{COMPACTED}{stamp:%Y%m%dT%H%M%S%fZ}-{part:04x}{number:04x}.parquet"
        write(folder / name, table, frame.slice(start, end - start))
        start, number = end, number + 1


def write(file: Path, table: str, frame: pl.DataFrame) -> None:
    """Columns that the table does not have are left out, those that the frame does not have are null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMAS[table]
    known = frame.with_columns(schema_version=SCHEMA_VERSION)
    rows = known.select(name for name in schema.names if name in known.columns).to_arrow(
        compat_level=pl.CompatLevel.oldest()
    )
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    pq.write_table(pa.table(columns, schema=schema), file)
