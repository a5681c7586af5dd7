"""Settings of stages with some of them left aside, which tells what is the same for several stages."""

import json
import re
from collections.abc import Collection, Mapping
from hashlib import blake2b

import polars as pl

Left = Mapping[str, Collection[str]]


def settings_without(**left_out: Collection[str]) -> pl.Expr:
    """Columns with a short name for each stage's settings, equal where all but the names left out is equal.

    Reading JSON takes longer than all else in a ranking. Texts that differ only in values that every column leaves out,
    such as seeds, are read once: these values are blanked first. Where a name stands further down too, its value there
    counts, and the text is read as it is.

    Args:
        left_out: for each column the names at the top level of the settings that do not count. Where settings are no
            JSON object, all of their text counts.
    """
    blank = set.intersection(*map(set, left_out.values()))
    pairs = {name: rf'"{re.escape(name)}":(?:"[^"\\]*"|[-+.\w]+)' for name in blank}
    fields = dict.fromkeys(left_out, pl.String())

    def names(column: pl.Series) -> pl.Series:
        texts = column
        for name, pair in pairs.items():
            texts = texts.str.replace_all(pair, f'"{name}":null')
        distinct = texts.drop_nulls().unique()
        counts = distinct.str.count_matches("|".join(pairs.values()))
        of = {text: _names(text, left_out, blank, blanks) for text, blanks in zip(distinct, counts, strict=True)}
        if unread := [text for text, found in of.items() if found is None]:
            texts = column.zip_with(texts.is_in(unread), texts)
            of |= {text: _names(text, left_out) for text in texts.drop_nulls().unique() if of.get(text) is None}
        return texts.replace_strict(list(of), pl.Series(list(of.values()), dtype=pl.Struct(fields)), default=None)

    return pl.col("settings").map_batches(names, return_dtype=pl.Struct(fields)).struct.unnest()


def _names(text: str, left_out: Left, blank: Collection[str] = (), blanks: int | None = None) -> dict[str, str] | None:
    """A name for each column; None if not all of the text's blanks are at the top level of a JSON object."""
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if blanks and not (isinstance(settings, dict) and blanks == sum(settings.get(name, ...) is None for name in blank)):
        return None
    if not isinstance(settings, dict):
        return dict.fromkeys(left_out, short_name(text))
    return {column: short_name(_without(settings, names)) for column, names in left_out.items()}


def _without(settings: dict[str, object], names: Collection[str]) -> str:
    return json.dumps({name: value for name, value in settings.items() if name not in names}, sort_keys=True)


def short_name(text: str) -> str:
    """16 hexadecimal digits of a text's hash."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def data_of(settings: str) -> str | None:
    """Name and revision of the data that a stage's settings tell of; None if they tell none."""
    try:
        data = json.loads(settings).get("data") or {}
        return f"{data['name']}@{data['revision']}"
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
