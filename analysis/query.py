"""SQL over a results folder, read-only."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final, Literal, Unpack

import polars as pl

from analysis.load import Results
from analysis.printing import number, plain, to_csv, to_json
from analysis.ranking import ranking
from analysis.results import Choices
from energyaware.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

Format = Literal["table", "json", "csv", "parquet"]

_QUOTED: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)
_WRITES: Final = re.compile(
    r"\b(alter|call|copy|create|delete|drop|execute|grant|insert|into|merge|revoke|set|truncate|update)\b",
    re.IGNORECASE,
)
_READS_FILES: Final = re.compile(r"\b((?:read|scan)_\w+)[\"`]?\s*(?:\(|--|/\*)", re.IGNORECASE)
"""A table function: its name, quoted perhaps, and its parenthesis, or a comment before that."""


def query(results: Results, sql: str, **choices: Unpack[Choices]) -> pl.DataFrame:
    """Run one SELECT over the tables plan, stages, attempts, epochs, quality, energy, nodes and ranking.

    The tables hold all rows, of several folders those of each; the ranking has one result of each stage.

    Args:
        results: one or several results folders, loaded.
        sql: one statement in Polars' SQL, beginning with SELECT or WITH.
        choices: for the table `ranking`, as of `analysis.ranking.ranking`.

    Raises:
        InputError: the statement is not a single SELECT, would read other files, or does not run; or files of the
            results were merged or removed since they were loaded.
        NotComparable: it names the ranking, and what would be ranked is not alike.
    """
    _check(sql)
    tables = results.tables()
    if re.search(r"\branking\b", sql, re.IGNORECASE):
        tables["ranking"] = ranking(results, **choices)
    try:
        return pl.SQLContext(tables, eager=False).execute(sql).collect()
    except FileNotFoundError:
        raise InputError(results.folder, "", "was changed while it was read: try again") from None
    except pl.exceptions.ColumnNotFoundError as error:
        raise InputError("SQL", "", f"{_first_line(error)}; {_columns(tables, sql)}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError, OverflowError) as error:
        names = ", ".join([*results.tables(), "ranking"])
        raise InputError("SQL", "", f"{_first_line(error)}; tables: {names}") from error


def _check(sql: str) -> None:
    """Refuse all but one reading statement. Polars writes no files from SQL, but it reads any that it is told to."""
    bare = _QUOTED.sub(" ", sql).strip().removesuffix(";")
    if not re.match(r"[\s(]*(select|with)\b", bare, re.IGNORECASE):
        raise InputError("SQL", "", "a query begins with SELECT or WITH")
    if ";" in bare:
        raise InputError("SQL", "", "one statement at a time")
    if word := _WRITES.search(bare):
        raise InputError("SQL", "", f"{word.group().upper()} is not allowed: results are read-only")
    if word := _READS_FILES.search(sql):  # between quotes too: names are quoted, and texts in ways not known here
        raise InputError("SQL", "", f"{word[1]} is not allowed: a query reads the results folder alone")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return plain(lines[0].split("; valid columns")[0][:300]).plain


def _columns(tables: dict[str, pl.LazyFrame], sql: str) -> str:
    """Columns of the tables that a statement names."""
    named = [name for name in tables if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
    return "; ".join(f"{name} has {', '.join(tables[name].collect_schema().names())}" for name in named)


def render(frame: pl.DataFrame, form: Format = "table") -> Table | str | bytes:
    """A query's rows as a rich table, a JSON list of objects, CSV, or a Parquet file."""
    match form:
        case "table":
            return _table(frame)
        case "json":
            return to_json(frame.to_dicts())
        case "csv":
            return to_csv(frame)
        case "parquet":
            file = io.BytesIO()
            frame.write_parquet(file)
            return file.getvalue()


def _table(frame: pl.DataFrame) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, kind in frame.schema.items():
        table.add_column(plain(name), justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.iter_rows():
        table.add_row(*(plain(number(value) if isinstance(value, float) else value) for value in row))
    return table
