"""A row counts once, however many files hold it: of those with one key, the last in reading order.

Rows are held twice while, or because, merged files and the files that they came from lie side by side (a compaction is
at work, or was killed), where an attempt's rows were written anew after they had been merged, and while a ledger's rows
are being handed over. To look at every key of a large table would take longer than all that is asked of it, so:

- `energyaware.compact` leaves one row of each key in a merged file. Only what several files hold, or a file that is not
  merged, is looked at key by key.
- Whether any key occurs twice is first asked of hashes of the keys: where no two are alike, no two keys are.
"""

from typing import Final

import polars as pl

from energyaware.rows import COMPACTED, KEYS

_AT_ONCE: Final = 1_000_000
"""Rows of a large table that are taken into memory to be looked at key by key; one takes some 250 bytes."""

_MERGED: Final = rf"(?:^|[/\\]){COMPACTED}[^/\\]*$"
"""How the path of a merged file ends."""


def part_of(table: str) -> list[str]:
    """Columns that tell apart what is written together, and so mostly lies in one file: all of a key, if no others."""
    return [name for name in KEYS[table] if name in {"stage_id", "attempt"}] or KEYS[table]


def in_memory(rows: pl.DataFrame, table: str) -> pl.DataFrame:
    """The last row of each key."""
    hashes = rows.select(pl.struct(KEYS[table]).hash().n_unique()).item()
    return rows if hashes == rows.height else rows.unique(KEYS[table], keep="last", maintain_order=True)


def of_files(rows: pl.DataFrame, table: str, early: pl.DataFrame) -> pl.DataFrame:
    """The last row of each key, of files that are in memory.

    Args:
        rows: of all files, in reading order, with the column `file`.
        table: whose rows they are.
        early: rows that come before those of files.
    """
    content = rows.drop("file")
    if early.is_empty() and _lie_apart(rows, part_of(table)[0]):
        return content
    return in_memory(pl.concat([early, content]), table)


def _lie_apart(rows: pl.DataFrame, name: str) -> bool:
    """All files are merged ones, and no value of a column that is part of the key lies in two of them."""
    files = rows["file"].rle().struct.unnest()
    if not files.select(pl.col("value").str.contains(_MERGED).all()).item():
        return False
    if files.height <= 1:
        return True
    starts = files["len"].cum_sum() - files["len"]
    values = rows[name]
    in_each = sum(values.slice(start, count).n_unique() for start, count in zip(starts, files["len"], strict=True))
    return in_each == values.n_unique()


def on_disk(rows: pl.LazyFrame, table: str, held: pl.DataFrame, early: pl.DataFrame) -> pl.LazyFrame:
    """The last row of each key.

    Args:
        rows: of all files, in reading order.
        table: whose rows they are.
        held: which file holds how many rows of which part: columns `file`, those of `part_of`, `len`.
        early: rows that come before those of files.
    """
    part = part_of(table)
    merged = pl.col("file").str.contains(_MERGED)
    doubtful = (
        held.group_by(part)
        .agg(pl.sum("len"), once=(pl.len() == 1) & merged.all())
        .join(
            early.select(part, early=pl.lit(value=True)).unique(), on=part, how="full", coalesce=True, nulls_equal=True
        )
        .filter(pl.col("early").is_not_null() | ~pl.col("once"))
    )
    if doubtful.is_empty():
        return rows
    if doubtful["len"].sum() > _AT_ONCE:
        return _all_of(pl.concat([early.lazy(), rows]), table)
    parts = doubtful.lazy().select(part)
    looked_at = rows.join(parts, on=part, how="semi", nulls_equal=True).collect(engine="streaming")
    others = rows.join(parts, on=part, how="anti", nulls_equal=True)
    return pl.concat([others, in_memory(pl.concat([early, looked_at]), table).lazy()])


def _all_of(rows: pl.LazyFrame, table: str) -> pl.LazyFrame:
    hashes = rows.select(pl.struct(KEYS[table]).hash()).select(pl.all().n_unique(), rows=pl.len())
    ((unlike, count),) = hashes.collect(engine="streaming").rows()
    return rows if unlike == count else rows.unique(KEYS[table], keep="last", maintain_order=True)
