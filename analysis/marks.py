"""What the windows behind a joule were marked with: each mark is `window: mark`, such as `decode: short`."""

from collections.abc import Iterator
from typing import Final

import polars as pl

from analysis.kinds import SERVING

IMPLAUSIBLE: Final = "implausible"
"""The one mark that rules a joule out; all others are said beside it."""

_ADJECTIVES: Final = {"disagrees": "disagreeing"}


def that_count(marks: str) -> pl.Expr:
    """Of a stage's marks those of windows that a ranking counts: serving's of an inference, all of a fine-tuning."""
    of_serving = pl.element().str.extract("^([^:]*)").is_in(SERVING)
    every = pl.col(marks).fill_null([])
    return pl.when(pl.col("kind") == "inference").then(every.list.filter(of_serving)).otherwise(every)


def why_implausible(marks: str) -> pl.Expr:
    """What a list of marks says against its joules, such as "decode is implausible: mean 912 W …"; null if nothing."""
    against = pl.col(marks).list.filter(pl.element().str.contains(f"^[^:]*: {IMPLAUSIBLE}"))
    text = against.list.eval(pl.element().str.replace(f": {IMPLAUSIBLE}", f" is {IMPLAUSIBLE}", literal=True))
    return text.list.join("; ").replace("", None)


def notes(rows: pl.DataFrame) -> Iterator[str]:
    """One line per mark, over all rows that carry it: "marked: 3 configurations have short windows (decode)"."""
    carried = (
        rows.select(pl.row_index("row"), "marks")
        .explode("marks")
        .drop_nulls("marks")
        .with_columns(window=pl.col("marks").str.extract("^([^:]*)"), mark=pl.col("marks").str.extract(": ([^:]*)"))
        .group_by("mark")
        .agg(pl.col("row").n_unique(), pl.col("window").unique().sort())
        .sort("mark")
    )
    for mark, count, windows in carried.iter_rows():
        have = "configuration has" if count == 1 else "configurations have"
        yield f"marked: {count} {have} {_ADJECTIVES.get(mark, mark)} windows ({', '.join(windows)})"
