"""SQL over a results folder, read-only."""

import re
from typing import TYPE_CHECKING, Final, Literal

import polars as pl

from analysis.load import Results
from analysis.ranking import Phi, ranking
from analysis.show import number, plain, to_csv, to_json
from energyaware.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

Format = Literal["table", "json", "csv"]

_QUOTED: Final = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)
_WRITES: Final = re.compile(
    r"\b(alter|call|copy|create|delete|drop|execute|grant|insert|into|merge|revoke|set|truncate|update)\b",
    re.IGNORECASE,
)
_READS_FILES: Final = re.compile(r"\b(?:read|scan)_\w+", re.IGNORECASE)


def query(
    results: Results,
    sql: str,
    weight: float = 0.5,
    requests: int = 10_000,
    phi: Phi = "minmax",
    *,
    allow_mixed: bool = False,
    asked_only: bool = True,
) -> pl.DataFrame:
    """Run one SELECT over the tables plan, stages, attempts, epochs, quality, energy, nodes and ranking.

    Args:
        results: a loaded results folder.
        sql: one statement in Polars' SQL, beginning with SELECT or WITH.
        weight: as in `analysis.ranking.ranking`, for the table `ranking`.
        requests: likewise.
        phi: likewise.
        allow_mixed: likewise.
        asked_only: likewise; the other tables hold all rows of the folder.

    Raises:
        InputError: the statement is not a single SELECT, would read other files, or does not run.
        NotComparable: it names the ranking, and what would be ranked is not alike.
    """
    _check(sql)
    tables = results.tables()
    if re.search(r"\branking\b", sql, re.IGNORECASE):
        tables["ranking"] = ranking(results, weight, requests, phi, allow_mixed=allow_mixed, asked_only=asked_only)
    try:
        return pl.SQLContext(tables, eager=False).execute(sql).collect()
    except pl.exceptions.ColumnNotFoundError as error:
        raise InputError("SQL", "", f"{_first_line(error)}; {_columns(tables, sql)}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError) as error:
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
    if word := _READS_FILES.search(sql):  # even between quotes: a quoted name can be called, too
        raise InputError("SQL", "", f"{word.group()} is not allowed: a query reads the results folder alone")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].split("; valid columns")[0][:300]


def _columns(tables: dict[str, pl.LazyFrame], sql: str) -> str:
    """Columns of the tables that a statement names."""
    named = [name for name in tables if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
    return "; ".join(f"{name} has {', '.join(tables[name].collect_schema().names())}" for name in named)


def render(frame: pl.DataFrame, form: Format = "table") -> "Table | str":
    """A query's rows as a rich table, a JSON list of objects, or CSV."""
    if form == "json":
        return to_json(frame.to_dicts())
    return to_csv(frame) if form == "csv" else _table(frame)


def _table(frame: pl.DataFrame) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, kind in frame.schema.items():
        table.add_column(plain(name), justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.iter_rows():
        table.add_row(*(plain(number(value) if isinstance(value, float) else value) for value in row))
    return table
