"""Settings of stages with some of them left aside, which tells what is the same for several stages."""

import json
import re
from collections.abc import Collection

import polars as pl


def settings_without(*names: str, of: str = "settings") -> pl.Expr:
    """A column of settings as canonical JSON with top-level names left out; as it is where it is no JSON object.

    Reading JSON takes longer than all else in a ranking. Texts that differ only in values that are left out, such as
    seeds, are read once: these values are blanked first. Where a name stands further down too, its value there counts,
    and the text is read as it is.
    """
    value = rf'"({"|".join(map(re.escape, names))})":(?:"[^"\\]*"|[-+.\w]+)'

    def without(column: pl.Series) -> pl.Series:
        blanked = column.str.replace_all(value, '"${1}":null')
        distinct = blanked.drop_nulls().unique()
        counts = distinct.str.count_matches(value)
        short = [_without(text, names, blanks) for text, blanks in zip(distinct, counts, strict=True)]
        left = blanked.replace_strict(distinct, pl.Series(short, dtype=pl.String), return_dtype=pl.String)
        unread = left.is_null() & column.is_not_null()
        if not unread.any():
            return left
        read = [_without(text, names) or text for text in column.filter(unread)]
        return left.scatter(unread.arg_true(), read)

    return pl.col(of).map_batches(without, return_dtype=pl.String)


def _without(text: str, names: Collection[str], blanks: int | None = None) -> str | None:
    """Without the names; None if it is no JSON object, or if not all of its blanks are at the top level."""
    try:
        settings = json.loads(text)
    except ValueError:
        return None
    if not isinstance(settings, dict):
        return None
    if blanks is not None and blanks != sum(settings.get(name, ...) is None for name in names):
        return None
    return json.dumps({name: value for name, value in settings.items() if name not in names}, sort_keys=True)
